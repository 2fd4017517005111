# SPDX-License-Identifier: Apache-2.0
"""Memory that one step frees is kept for the next one.

The C library of Linux gives large freed blocks back to the system at once, and the next step gets them anew,
page by page, each page cleared: up to a third of the time of a step of a small network on a CPU.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# Of malloc.h. The largest value that the library takes as a threshold is half of its heap of 64 MB.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP, _TRIM = 32 << 20, (1 << 31) - 1
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, for the whole process and once; whether it was done.

    Not where the user tunes the library himself by its environment variables, nor with
    `CONFIDE_MALLOC=system`. The peak of memory stays what it was, but between steps the process keeps it.
    """
    if os.environ.get("CONFIDE_MALLOC") == "system" or any(name in os.environ for name in _OWN):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # Setting one of the two stops the library from adapting the other: both, or none.
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _MMAP) and library.mallopt(_M_TRIM_THRESHOLD, _TRIM))
