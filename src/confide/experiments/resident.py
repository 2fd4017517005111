# SPDX-License-Identifier: Apache-2.0
"""Memory of this process, as the operating system counts it.

Linux hands `ru_maxrss` on to a child process, through `exec`, too: a child of a large parent seems to have
been large. Its own high-water mark begins at `exec`, so that is read where there is one.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib() -> float:
    """The most that this process has held since it began, or since `restart_peak`, in MiB."""
    own = _field("VmHWM")
    if own is not None:
        return own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def restart_peak() -> float:
    """Forget the peak so far, where the system can; returns where it begins anew, in MiB."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return peak_mib()
    return _field("VmRSS") or peak_mib()


def _field(name: str) -> float | None:
    """A line of the process's status in MiB; None where there is none."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found.split()[1]) / 2**10
