# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Choices by the clock between works of equal result, made once on a machine and kept in the user's cache
folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from statistics import median

import torch

_TURNS = 5
_chosen: dict[str, str] = {}
_loaded: list[bool] = []


def remembered(key: str, known: Collection[str], choose: Callable[[], str]) -> str:
    """The choice among the known names made for this key on this machine, now or earlier."""
    found = recalled(key, known)
    if found is None:
        found = _chosen[key] = choose()
        _save()
    return found


def recalled(key: str, known: Collection[str]) -> str | None:
    """The choice made earlier for this key, if any."""
    if not _loaded:
        _chosen.update(_load())
        _loaded.append(True)
    found = _chosen.get(key)
    return found if found in known else None


def fastest(
    works: Mapping[str, Callable[[], object]],
    device: torch.device,
    weights: Mapping[str, float] | None = None,
) -> str:
    """Name of the fastest of several equal works, each timed up to `_TURNS` times; the shortest counts, times
    the work's weight.

    The first turn warms up; from the third on, only those near the best run again. On one CPU thread its own
    time counts, so that a busy machine does not choose.
    """
    clock = _clock(device)
    times = dict.fromkeys(works, math.inf)
    for turn in range(_TURNS):
        for name, work in works.items():
            if turn and times[name] > (4, 1.5)[turn > 1] * min(times.values()):
                continue
            taken = _timed(work, device, clock)
            times[name] = taken if turn < 2 else min(times[name], taken)
    return min(times, key=lambda name: times[name] * (weights or {}).get(name, 1.0))


def relative_times(
    works: Mapping[str, Callable[[], object]], device: torch.device, turns: int = _TURNS
) -> dict[str, float]:
    """Time of each work over that of the first, the median of turns; for works that take seconds.

    Meanwhile a shared machine may slow down by a third and recover, so that the shortest of a few times says
    little; neighbours in time suffer alike. The first turn warms up.
    """
    clock = _clock(device)
    taken = [{name: _timed(work, device, clock) for name, work in works.items()} for _ in range(1 + turns)]
    first = next(iter(works))
    return {name: median(turn[name] / turn[first] for turn in taken[1:]) for name in works}


def _clock(device: torch.device) -> Callable[[], float]:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def _timed(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    _wait(device)
    began = clock()
    work()
    _wait(device)
    return clock() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _file() -> Path:
    from platformdirs import user_cache_path

    kind = hashlib.blake2b(_processor().encode(), digest_size=4).hexdigest()
    return user_cache_path("confide") / f"kernels14-{torch.__version__}-{platform.machine()}-{kind}.json"


def _processor() -> str:
    """What distinguishes this processor from others, for nodes of a cluster often share a user's folders."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    # The model's name alone may hide what a virtual machine passes on, such as AMX.
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _load() -> dict[str, str]:
    """Earlier choices on this machine; a missing or damaged file is no choice."""
    try:
        values = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in values.items() if isinstance(v, str)} if isinstance(values, dict) else {}


def _save() -> None:
    """Keep the choices; a cache that cannot be written costs time only."""
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        # Another process may have added choices meanwhile.
        part.write_text(json.dumps(_load() | _chosen), encoding="utf-8")
        part.replace(path)
    except OSError:
        return
