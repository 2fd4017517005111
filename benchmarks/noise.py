# SPDX-License-Identifier: Apache-2.0
"""Cost of the noise of a step on one core: `python -m benchmarks.noise`.

Compared with torch.randn, which is fast and no cryptographic generator; and the hardened integer noise,
compared with OpenDP's discrete Gaussian.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from confide.mechanisms.hardened import discrete_gaussian
from confide.mechanisms.keys import RunKey, Stream
from confide.mechanisms.noise import GaussianNoise, standard_normals
from confide.privacy.discrete import STEPS_PER_STD

RECORD = Path(__file__).parent / "records" / "noise.json"
TENSORS = 20
KEY = RunKey.from_os()


def row(name: str, count: int, times: int, run: Callable[[Stream], object]) -> list[Any]:
    """The least processor time of several runs; the first, which warms up, is not counted."""
    taken: list[float] = []
    for turn in range(times + 1):
        stream = KEY.stream("benchmark", step=turn)
        start = time.process_time()
        run(stream)
        taken.append(time.process_time() - start)
    seconds = min(taken[1:])
    return [name, count, seconds * 1e3, seconds / count * 1e9]


def floating_point(count: int, times: int) -> list[list[Any]]:
    """The default noise for a model of so many parameters."""
    sums = {str(i): torch.zeros(count // TENSORS) for i in range(TENSORS)}
    noise = GaussianNoise(1.0)
    return [
        row("torch.randn, float32", count, times, lambda _: torch.randn(count)),
        row("keystream alone", count, times, lambda stream: stream.bytes(8 * count)),
        row("normals, float64", count, times, lambda stream: standard_normals(stream, count)),
        row("as in a step", count, times, lambda stream: noise.add_(sums, stream)),
    ]


def hardened(count: int) -> list[list[Any]]:
    """Exact integer noise, ours and OpenDP's."""
    ours = row("hardened", count, 3, lambda stream: discrete_gaussian(stream, STEPS_PER_STD, count))
    try:
        import opendp.prelude as dp
    except ImportError:
        print("OpenDP is not installed: pip install 'confide[hardened]'")
        return [ours]
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    theirs = dp.m.make_gaussian(*space, scale=float(STEPS_PER_STD))
    return [ours, row("OpenDP make_gaussian", count, 1, lambda _: theirs([0] * count))]


def main() -> None:
    """Measure, print, and write the record."""
    torch.set_num_threads(1)
    rows = [*floating_point(80_000, 15), *floating_point(11_000_000, 2), *hardened(80_000)]
    each = {name: nanoseconds for name, count, _, nanoseconds in rows if count == 80_000}
    remarks = [f"Hardened noise costs {each['hardened'] / each['as in a step']:.0f} times the default."]
    if "OpenDP make_gaussian" in each:
        factor = each["OpenDP make_gaussian"] / each["hardened"]
        remarks.append(f"OpenDP's sampler takes {factor:.1f} times as long as the hardened one.")
    record = {
        "title": "Noise of a step",
        "command": "python -m benchmarks.noise",
        "setting": {
            "torch": torch.__version__,
            "machine": "2-core x86-64, CPU",
            "threads": 1,
            "load": "others were working",
        },
        "columns": ["noise", "numbers", "ms", "ns a number"],
        "rows": rows,
        "bars": ["ledger and noise below 3 % of a step: see the record of the ledger"],
        "remarks": ["Least processor time of several runs.", *remarks],
    }
    RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
