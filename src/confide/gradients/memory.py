# SPDX-License-Identifier: Apache-2.0
"""Memory that one step frees is kept for the next one.

The C library of Linux gives large freed blocks back to the system at once, and the next step gets them anew,
page by page, each page cleared. That was up to a third of the time of a step on a CPU, for a plain step of a
small network as well as for per-sample gradients of 32 MB and more.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# Of malloc.h. No block is mapped for itself, whose pages would go with it; and the heap never shrinks.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = (1 << 31) - 1
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, for the whole process and once; whether it was done.

    Not where the user tunes the library himself by its environment variables, nor with
    `CONFIDE_MALLOC=system`. Between steps the process holds what its largest step took.
    """
    if os.environ.get("CONFIDE_MALLOC") == "system" or any(name in os.environ for name in _OWN):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back_memory() -> None:
    """Return to the system what `keep_freed_memory` kept, as far as it is free now."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)
