# SPDX-License-Identifier: Apache-2.0
"""Freed memory is kept between steps: page faults counted by the system, in fresh processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Four blocks of 16 MB, written and freed, ten times: 16,384 pages each time they come from the system.
SCRIPT = """
import ctypes, resource, sys
from confide.gradients.memory import give_back_memory, keep_freed_memory
print(keep_freed_memory())
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
before = 0
for turn in range(11):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [library.malloc(16 << 20) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in blocks:
        library.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
held = resident()
give_back_memory()
print(held - resident())
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def faults(**variables: str) -> tuple[bool, int, int]:
    """Whether memory is kept, pages fetched again, and kB given back in the end."""
    names = ("CONFIDE_MALLOC", "GLIBC_TUNABLES")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k not in names}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=kept | variables, capture_output=True, text=True, check=True
    )
    done, count, back = out.stdout.split()
    return done == "True", int(count), int(back)


def test_freed_blocks_are_kept_and_given_back_in_the_end() -> None:
    done, count, back = faults()
    assert done and count < 1000
    assert back > 50_000


@pytest.mark.parametrize("variables", [{"CONFIDE_MALLOC": "system"}, {"MALLOC_MMAP_THRESHOLD_": "131072"}])
def test_the_user_decides(variables: dict[str, str]) -> None:
    done, count, _ = faults(**variables)
    assert not done and count > 100_000
