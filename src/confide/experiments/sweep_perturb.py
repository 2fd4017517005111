# SPDX-License-Identifier: Apache-2.0
"""The local-DP copies that cells train on: made once, before any training, for all that want the same."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confide.experiments.prepare import load_data
from confide.experiments.sections import DataConfig
from confide.experiments.sweep_grid import Perturbation


@dataclass(frozen=True)
class Copy:
    """A perturbed copy and what its record says (guarantee, resemblance)."""

    folder: Path
    record: dict[str, Any]


def perturbed_copy(data: DataConfig, wanted: Perturbation, place: Path) -> Copy:
    """The copy of a data set under these settings, made now if it is not there.

    Made beside and then renamed: a process that is killed leaves no half of a copy.
    """
    from confide.data.perturb import LOOKS, RECORD, perturb
    from confide.mechanisms.keys import RunKey
    from confide.mechanisms.local import LaplacePixels

    settings = json.dumps([data.model_dump(mode="json"), wanted.model_dump()], sort_keys=True)
    folder = place / f"{wanted.mechanism}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when its process dies
        if not (folder / RECORD).exists():
            half = folder.with_suffix(".part")
            shutil.rmtree(half, ignore_errors=True)
            perturb(load_data(data), LaplacePixels(wanted.scale), half, RunKey.from_seed(wanted.seed))
            half.rename(folder)
    stated = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    looks = json.loads((folder / LOOKS).read_text(encoding="utf-8"))
    return Copy(folder, {"guarantee": stated["guarantee"], "looks": looks})
