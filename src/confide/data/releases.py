# SPDX-License-Identifier: Apache-2.0
"""What was released of a data set by local perturbation: every copy of the same images adds to their ε.

One line a copy, beside the project's key, written before the copy is made: a crash may over-count, never
under-count. It holds fingerprints and figures, no names.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass

from confide.data.pseudonyms import project_key_path
from confide.errors import DataError

FILE = "local-releases.jsonl"


@dataclass(frozen=True)
class Released:
    """All private copies made of one data set in this project, the newest included.

    Attributes:
        epsilon, delta: Of one whole image over all of them, by composition.
    """

    copies: int
    epsilon: float
    delta: float


def note(fingerprint: str, epsilon: float, delta: float) -> Released:
    """Write down a copy that is about to be made; returns what all copies come to.

    Raises:
        DataError: If the list cannot be written or read. Nothing may be released then.
    """
    path = project_key_path().with_name(FILE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            known = [json.loads(line) for line in file if line.strip()]
            line = {"data": fingerprint, "epsilon": epsilon, "delta": delta}
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        same = [line, *(entry for entry in known if entry["data"] == fingerprint)]
        return Released(len(same), sum(e["epsilon"] for e in same), sum(e["delta"] for e in same))
    except OSError as error:
        raise DataError(
            "the list of local releases cannot be written", where=str(path), why=str(error.strerror or error)
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError(
            "the list of local releases is damaged", where=str(path), remedy="Restore it from a backup."
        ) from None
