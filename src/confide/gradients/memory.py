# SPDX-License-Identifier: Apache-2.0
"""Memory that one step frees is kept for the next one.

The C library of Linux gives large freed blocks back to the system at once, and the next step gets them anew,
page by page, each page cleared. That is up to a third of the time of a step on a CPU, for a plain step of a
small network, too.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# Of malloc.h. The heap never shrinks. Blocks from 32 MB on, the most that the library takes as a threshold,
# still come and go by themselves: kept in the heap as well, they left holes that doubled the peak of some
# networks.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGE = (1 << 31) - 1, 32 << 20
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
    # Setting one of the two stops the library from adapting the other: both, or none.
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _LARGE) and library.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back_memory() -> None:
    """Return to the system what `keep_freed_memory` kept, as far as it is free now; else nothing happens."""
    if keep_freed_memory.cache_info().currsize and keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)
