# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Gaussian noise from a keyed stream.

*Formal guarantee.* `add` returns sum + N(0, std²) in every coordinate, independent over coordinates and over
streams. With W ranks each adds N(0, std²/W), so that the sum over ranks carries std² once. Noise is a
function of its stream alone: not of the batch, of physical batches, or of the device.

Floating point. Normals are computed in float64 by Box–Muller, from 63 random bits for the radius and 64 for
the angle. The smallest radius variable is 2⁻⁶⁴, so the tails reach 9.4 standard deviations, and what is cut
off there has a probability of 2⁻⁶⁴ a pair: below 10⁻⁸ in all over 10⁶ parameters and 10⁵ steps. (A 24-bit
uniform would end at 5.8, inside what δ = 1e-5 over 10⁴ steps can see.) They are rounded to the sum's own
dtype when added. The standard deviation is a millionth above what is asked, which covers the rounding by
which a clipped sum in float32 may exceed its bound. The lattice of the last bits can betray a sum in
principle (Mironov 2012); `confide.mechanisms.hardened` is the answer to that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confide.errors import InputError, PlanError
from confide.mechanisms.keys import Stream

# Numbers are made in pieces that stay in the cache. Part of the stream's meaning: changing it changes the
# noise.
PIECE = 1 << 16
# Relative excess of a float32 sum's norm over its bound, generously.
ROUNDING = 1e-6


def standard_normals(stream: Stream, count: int) -> Tensor:
    """Independent N(0, 1) in float64 on the CPU, (count,); a function of the stream only."""
    out = torch.empty(count, dtype=torch.float64)
    for start in range(0, count, PIECE):
        piece = out[start : start + PIECE]
        piece.copy_(_piece(stream, len(piece)))
    return out


def _piece(stream: Stream, count: int) -> Tensor:
    """The next `count` normals, at most `PIECE`; always consumes whole pairs."""
    half = (count + 1) // 2
    words = stream.words(2 * half)
    angle = torch.from_numpy(words[half:].view(np.int64).astype(np.float64)).mul_(math.pi * 2.0**-63)
    radius = torch.from_numpy(_radius(words[:half]))
    out = torch.empty(2 * half, dtype=torch.float64)
    torch.mul(radius, torch.cos(angle), out=out[:half])
    torch.mul(radius, angle.sin_(), out=out[half:])
    return out[:count]


def _radius(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """√(−2·log u), u uniform on the (k + ½)·2⁻⁶³ of (0, 1], so that the logarithm is finite."""
    radius = (words >> np.uint64(1)).astype(np.float64)
    radius += 0.5
    radius *= 2.0**-63
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(np.maximum(radius, 0.0, out=radius), out=radius)
    return radius


@dataclass(frozen=True)
class GaussianNoise:
    """Noise of one standard deviation, shared by `ranks` processes.

    Args:
        stddev: σ times the sensitivity of the sum it protects.
        ranks: Over how many processes' sums the noise is added up.

    Raises:
        PlanError: If the standard deviation is not a positive number, or there is no rank.
    """

    stddev: float
    ranks: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.stddev) and self.stddev > 0):
            raise PlanError(f"noise of standard deviation {self.stddev} protects nothing")
        if self.ranks < 1:
            raise PlanError(f"{self.ranks} ranks")

    @property
    def share(self) -> float:
        """Standard deviation that one rank adds."""
        return self.stddev * (1 + ROUNDING) / math.sqrt(self.ranks)

    def add(self, sums: dict[str, Tensor], stream: Stream) -> dict[str, Tensor]:
        """Noisy copies of the sums, each of its own shape, dtype and device.

        The stream is cut into one part for each name, in order, so that no two coordinates share a number.
        """
        return self._add(sums, lambda start, count: _piece(stream, count))

    def add_drawn(self, sums: dict[str, Tensor], normals: Tensor) -> dict[str, Tensor]:
        """`add`, with the stream's `standard_normals` drawn beforehand. They must never be used again.

        Raises:
            InputError: If there is not one number for each coordinate.
        """
        count = sum(tensor.numel() for tensor in sums.values())
        if normals.shape != (count,):
            raise InputError(f"{tuple(normals.shape)} normals were drawn for {count} coordinates")
        return self._add(sums, lambda start, count: normals[start : start + count])

    def _add(self, sums: dict[str, Tensor], normals: Callable[[int, int], Tensor]) -> dict[str, Tensor]:
        """Piece by piece, so that the numbers are used while they are in the cache."""
        # Neighbours of one dtype and device are copied into one long vector: a network has many small
        # parameters, and noise should cost by its numbers, not by their grouping.
        groups = itertools.groupby(sums.values(), key=lambda tensor: (tensor.dtype, tensor.device))
        runs = [list(run) for _, run in groups]
        flat = [torch.cat([tensor.detach().reshape(-1) for tensor in run]) for run in runs]
        total = sum(len(vector) for vector in flat)
        places = _places(flat, total)
        for start in range(0, total, PIECE):
            scaled = normals(start, min(PIECE, total - start)) * self.share
            for tensor, first, last in places[start // PIECE]:
                part, scaled = scaled[: last - first], scaled[last - first :]
                tensor[first:last] += part.to(tensor.device, tensor.dtype)
        parts: list[Tensor] = []
        for run, vector in zip(runs, flat, strict=True):
            parts += vector.split([tensor.numel() for tensor in run])
        return {
            name: part.view(tensor.shape) for (name, tensor), part in zip(sums.items(), parts, strict=True)
        }


def _places(flat: list[Tensor], total: int) -> list[list[tuple[Tensor, int, int]]]:
    """For each piece of the stream: the stretches (tensor, first, last) that it falls on, in order."""
    places: list[list[tuple[Tensor, int, int]]] = [[] for _ in range(0, total, PIECE)]
    position = 0
    for tensor in flat:
        first = 0
        while first < len(tensor):
            last = min(len(tensor), first + PIECE - position % PIECE)
            places[position // PIECE].append((tensor, first, last))
            position += last - first
            first = last
    return places


class NoiseAhead:
    """Draws the next step's normals in a thread, while the gradient of this step is computed.

    Noise does not depend on data, so it may be drawn before the data are seen; the numbers stay in memory
    until then and are given out once.

    Args:
        streams: step -> the stream of its noise.
        count: Numbers in a step.
        steps: Steps of the run; nothing is drawn beyond them.
    """

    def __init__(self, streams: Callable[[int], Stream], count: int, steps: int) -> None:
        self._streams = streams
        self._count = count
        self._steps = steps
        self._pool = ThreadPoolExecutor(1, "confide-noise")
        self._next: tuple[int, Future[Tensor]] | None = None

    def take(self, step: int) -> Tensor:
        """The normals of a step, (count,) in float64; starts on those of the next step.

        Drawn here and now if they are not those that were begun, for example in the first step.
        """
        ready, self._next = self._next, None
        if ready is not None and ready[0] != step:
            ready[1].cancel()
            ready = None
        drawn = self._draw(step) if ready is None else ready[1].result()
        if step + 1 < self._steps:
            self._next = (step + 1, self._pool.submit(self._draw, step + 1))
        return drawn

    def _draw(self, step: int) -> Tensor:
        return standard_normals(self._streams(step), self._count)

    def close(self) -> None:
        """Stop the thread."""
        self._next = None
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
