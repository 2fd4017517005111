# SPDX-License-Identifier: Apache-2.0
"""Cost of the noise of a step on one core: `python benchmarks/noise.py`.

Compared with torch.randn, which is fast and no cryptographic generator; and the hardened integer noise,
compared with OpenDP's discrete Gaussian.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from confide.mechanisms.hardened import STEPS_PER_STD, discrete_gaussian
from confide.mechanisms.keys import RunKey, Stream
from confide.mechanisms.noise import GaussianNoise, standard_normals

TENSORS = 20
KEY = RunKey.from_os()


def row(name: str, count: int, times: int, run: Callable[[Stream], object]) -> None:
    """Print the shortest of several runs; the first, which warms up, is not counted."""
    taken: list[float] = []
    for turn in range(times + 1):
        stream = KEY.stream("benchmark", step=turn)
        start = time.perf_counter()
        run(stream)
        taken.append(time.perf_counter() - start)
    seconds = min(taken[1:])
    print(f"  {name:40} {seconds * 1e3:9.2f} ms {seconds / count * 1e9:9.1f} ns a number")


def floating_point(model: str, count: int, times: int) -> None:
    """The default noise for a model of so many parameters."""
    sums = {str(i): torch.zeros(count // TENSORS) for i in range(TENSORS)}
    noise = GaussianNoise(1.0)
    drawn = standard_normals(KEY.stream("ahead", step=0), count)
    print(f"{model}, {count:,} parameters")
    row("torch.randn (float32)", count, times, lambda _: torch.randn(count))
    row("keystream alone", count, times, lambda stream: stream.bytes(8 * count))
    row("standard_normals (float64)", count, times, lambda stream: standard_normals(stream, count))
    row("GaussianNoise.add, as in a step", count, times, lambda stream: noise.add(sums, stream))
    row("GaussianNoise.add_drawn, drawn ahead", count, times, lambda _: noise.add_drawn(sums, drawn))


def hardened(count: int) -> None:
    """Exact integer noise, ours and OpenDP's."""
    print(f"hardened, {count:,} parameters")
    row("discrete_gaussian", count, 5, lambda stream: discrete_gaussian(stream, STEPS_PER_STD, count))
    try:
        import opendp.prelude as dp
    except ImportError:
        print("  OpenDP is not installed: pip install 'confide[hardened]'")
        return
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    theirs = dp.m.make_gaussian(*space, scale=float(STEPS_PER_STD))
    row("OpenDP make_gaussian", count, 1, lambda _: theirs([0] * count))


def main() -> None:
    """Print one line a case."""
    torch.set_num_threads(1)
    floating_point("ResNet-9", 80_000, 20)
    floating_point("ResNet-18", 11_000_000, 3)
    hardened(80_000)


if __name__ == "__main__":
    main()
