# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Gaussian noise from a keyed stream.

*Formal guarantee.* `add_` returns (sum + N(0, std²)) / divisor in every coordinate, independent over
coordinates and over streams. With W ranks each adds N(0, std²/W), so that the sum over ranks carries std²
once. Noise is a function of its stream alone: not of the batch, of physical batches, or of the device.

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
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from confide.errors import PlanError
from confide.mechanisms.keys import SPARE, Stream

# Numbers are made in pieces that stay in the cache. Part of the stream's meaning: changing it changes the
# noise.
PIECE = 1 << 16
# Relative excess of a float32 sum's norm over its bound, generously.
ROUNDING = 1e-6


def standard_normals(stream: Stream, count: int) -> Tensor:
    """Independent N(0, 1) in float64 on the CPU, (count,); a function of the stream only."""
    out = torch.empty(count, dtype=torch.float64)
    begin = 0
    for piece in _pieces(stream, count):
        out[begin : begin + len(piece)] = piece
        begin += len(piece)
    return out


def _pieces(stream: Stream, count: int) -> Generator[Tensor]:
    """`count` normals in pieces of `PIECE`, each to be used before the next is asked for: all are written to
    one place, which stays in the cache."""
    most = (min(count, PIECE) + 1) // 2
    room = bytearray(16 * most + SPARE)
    normals = torch.empty(2 * most, dtype=torch.float64)
    scratch = torch.empty(2, most, dtype=torch.float64)
    for begin in range(0, count, PIECE):
        size = min(PIECE, count - begin)
        half = (size + 1) // 2  # always whole pairs
        words = torch.from_numpy(stream.fill(room, 2 * half).view(np.int64))
        radius, angle = _radius(words[:half], scratch[0, :half]), scratch[1, :half]
        angle.copy_(words[half:]).mul_(math.pi * 2.0**-63)
        torch.cos(angle, out=normals[:half]).mul_(radius)
        torch.sin(angle, out=normals[half : 2 * half]).mul_(radius)
        yield normals[:size]


def _radius(words: Tensor, out: Tensor) -> Tensor:
    """√(−2·log u), u uniform on the (k + ½)·2⁻⁶³ of (0, 1], so that the logarithm is finite.

    words: (n,) int64 of random bits, overwritten; the result is written to `out` (n,).
    """
    out.copy_(words.bitwise_and_(2**63 - 1))
    return out.add_(0.5).mul_(2.0**-63).log_().mul_(-2.0).clamp_min_(0.0).sqrt_()


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

    def add_(self, sums: dict[str, Tensor], stream: Stream, divisor: float = 1.0) -> dict[str, Tensor]:
        """(sums + noise) / divisor in place; a sum that is not contiguous is replaced by a noisy copy.

        The stream is cut into one part for each name, in order, so that no two coordinates share a number.
        """
        return _add_pieces(sums, self._scaled(stream, _count(sums)), divisor)

    def draw(self, stream: Stream, out: Tensor) -> Tensor:
        """Fill a vector with what `add_` would add, rounded to its dtype."""
        begin = 0
        for piece in self._scaled(stream, len(out)):
            out[begin : begin + len(piece)] = piece
            begin += len(piece)
        return out

    def _scaled(self, stream: Stream, count: int) -> Generator[Tensor]:
        return (piece.mul_(self.share) for piece in _pieces(stream, count))


def _add_pieces(sums: dict[str, Tensor], pieces: Iterable[Tensor], divisor: float) -> dict[str, Tensor]:
    """Piece by piece, so that the numbers are used while they are in the cache."""
    noisy = {name: tensor.detach().contiguous() for name, tensor in sums.items()}
    places = _places([tensor.view(-1) for tensor in noisy.values()])
    for piece, stretches in zip(pieces, places, strict=True):
        rest = piece
        # Neighbours of one dtype and device take one call: a network has many small parameters, and noise
        # should cost by its numbers, not by their grouping.
        for (dtype, device), run in itertools.groupby(stretches, key=lambda t: (t.dtype, t.device)):
            targets = list(run)
            sizes = [len(target) for target in targets]
            part, rest = rest[: sum(sizes)], rest[sum(sizes) :]
            parts = part.to(device, dtype).split(sizes)
            torch._foreach_add_(targets, parts)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            if divisor != 1.0:
                torch._foreach_div_(targets, divisor)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return noisy


def _count(sums: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in sums.values())


def _dtype(sums: Mapping[str, Tensor]) -> torch.dtype:
    """What noise is rounded to before it is added: coarser numbers would leave the last bits bare."""
    kinds = {tensor.dtype for tensor in sums.values()}
    return kinds.pop() if len(kinds) == 1 else torch.float64


def _places(flat: list[Tensor]) -> list[list[Tensor]]:
    """For each piece of the stream: the stretches of the vectors that it falls on, in order."""
    places: list[list[Tensor]] = []
    position = 0
    for tensor in flat:
        first = 0
        while first < len(tensor):
            if position % PIECE == 0:
                places.append([])
            last = min(len(tensor), first + PIECE - position % PIECE)
            places[-1].append(tensor[first:last])
            position += last - first
            first = last
    return places


class NoiseAhead:
    """Draws a step's noise in a thread, while the step's gradient is computed.

    Noise does not depend on data, so it may be drawn before the sums are known. It is added once: the same
    numbers as `GaussianNoise.add_` adds.

    Args:
        streams: step -> the stream of its noise.
    """

    def __init__(self, streams: Callable[[int], Stream]) -> None:
        self._streams = streams
        self._pool = ThreadPoolExecutor(1, "confide-noise")
        self._room = torch.empty(0)
        self._begun: tuple[int, GaussianNoise, Future[Tensor]] | None = None

    def begin(self, noise: GaussianNoise, step: int, like: Mapping[str, Tensor]) -> None:
        """Start on the noise of a step, for sums of these shapes. Its charge must be durable by now."""
        self._drawn()  # the thread may still be writing to our room
        count, dtype = _count(like), _dtype(like)
        if len(self._room) != count or self._room.dtype != dtype:
            self._room = torch.empty(count, dtype=dtype)
        self._begun = (step, noise, self._pool.submit(noise.draw, self._streams(step), self._room))

    def add_(
        self, noise: GaussianNoise, sums: dict[str, Tensor], step: int, divisor: float = 1.0
    ) -> dict[str, Tensor]:
        """`noise.add_` of a step's sums; drawn here and now if it is not what was begun."""
        begun = self._begun
        drawn = self._drawn()
        fits = drawn is not None and len(drawn) == _count(sums) and drawn.dtype == _dtype(sums)
        if begun is None or drawn is None or not fits or begun[:2] != (step, noise):
            return noise.add_(sums, self._streams(step), divisor)
        return _add_pieces(sums, drawn.split(PIECE), divisor)

    def _drawn(self) -> Tensor | None:
        """What was begun, once; after an exception in the thread it is forgotten."""
        begun, self._begun = self._begun, None
        return None if begun is None else begun[2].result()

    def close(self) -> None:
        """Stop the thread."""
        self._begun = None
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
