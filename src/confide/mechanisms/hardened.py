# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Integer gradients and exact discrete Gaussian noise: the answer to attacks on floating point.

Each unit's gradient is truncated towards zero on a grid of spacing γ = std/s, s a power of two: a vector of
integers whose squared norm, computed exactly, is at most ⌊(C/γ)²⌋. Integers are summed exactly, and discrete
Gaussian noise with parameter exactly s is drawn by the rejection sampler of Canonne, Kamath & Steinke (2020,
arXiv:2004.00010), which uses integer arithmetic only. Mironov's attack (2012) has nothing to work on: every
released number is an integer.

*What is claimed.* The joint law of the noise is within a stated total variation of a Gaussian rounded to
integers (`confide.privacy.discrete`). Rounding the Gaussian mechanism's output to integers is
post-processing, because its input is integer. So whatever (ε, δ) an accountant states for the continuous
Gaussian, with any sampling, holds here with δ + (1 + e^ε)·t; a plan with `integers` takes that off its δ. At
s = 2²⁴ and ε = 8, a model of 10⁶ parameters over 10⁴ steps pays 3.3e-8.

*What is not claimed.* The gradients themselves come from floating point, and that is harmless: each unit's
own gradient is a function of that unit only, and it is bounded after it is rounded. It is not harmless to
round a *sum* of floating-point gradients: such a sum depends on the order and on all units. Therefore
`IntegerGrid.clip` takes gradients one unit at a time, and costs memory for it. Time is not constant: the
sampler rejects, so the time it takes depends on the noise (not on data).

| case | what happens |
|---|---|
| gradient with NaN or an infinity | contributes zero |
| norm above the bound after truncation | impossible by the margin; checked exactly, contributes zero |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confide.errors import PlanError
from confide.mechanisms.keys import Stream
from confide.privacy.discrete import FARTHEST, STEPS_PER_STD

_MARGIN = 1e-9


@dataclass(frozen=True)
class IntegerGrid:
    """A grid on which noise of a multiplier z for gradients of norm C has the parameter s exactly.

    Args:
        noise_multiplier: z, of the gradient sum.
        clip_norm: C.
        steps_per_std: s, a power of two of at most 2²⁴.

    Raises:
        PlanError: If one of them is impossible.
    """

    noise_multiplier: float
    clip_norm: float
    steps_per_std: int = STEPS_PER_STD

    def __post_init__(self) -> None:
        for name, value in (("noise multiplier", self.noise_multiplier), ("clip norm", self.clip_norm)):
            if not 0 < value < math.inf:
                raise PlanError(f"{name} {value} is not a positive number")
        _checked_std(self.steps_per_std)
        if not 1 <= self.bound_squared < 2**62:
            raise PlanError(
                f"noise multiplier {self.noise_multiplier:g} is out of reach of the integer grid",
                remedy="Use floating-point noise, or a multiplier between 0.02 and 10⁶.",
            )

    @property
    def spacing(self) -> float:
        """γ: the size of one grid step."""
        return self.noise_multiplier * self.clip_norm / self.steps_per_std

    @property
    def bound_squared(self) -> int:
        """⌊(C/γ)²⌋ = ⌊(s/z)²⌋, the largest squared norm of one unit's integers, rounded down."""
        return math.floor((self.steps_per_std / self.noise_multiplier) ** 2 * (1 - 1e-12))

    def clip(self, gradients: Tensor) -> Tensor:
        """One integer vector for each unit: gradients (U, D) -> int64 (U, D), on the CPU.

        Flat clipping to C, then truncation towards zero, which never lengthens a vector.
        """
        values = gradients.detach().to("cpu", torch.float64)
        norms = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        finite = torch.isfinite(norms)
        bound = self.clip_norm * (1 - _MARGIN)
        scaled = torch.where(finite, values, 0.0) * (
            bound / norms.nan_to_num(1.0).clamp_min(bound) / self.spacing
        )
        integers = scaled.trunc().to(torch.int64)
        # Exact: entries are below 2^31, so that no square and, with the margin, no sum of them overflows.
        fits = (integers * integers).sum(1, keepdim=True) <= self.bound_squared
        return torch.where(fits & finite, integers, 0)

    def noisy_sum(self, integers: Tensor, stream: Stream) -> Tensor:
        """Sum of the units' integers plus discrete Gaussian noise: int64 (U, D) -> int64 (D,)."""
        noise = discrete_gaussian(stream, self.steps_per_std, integers.shape[1])
        return integers.sum(0) + torch.from_numpy(noise)

    def to_real(self, integers: Tensor) -> Tensor:
        """Grid steps -> float64; post-processing."""
        return integers.double() * self.spacing


def discrete_gaussian(stream: Stream, std: int, count: int) -> NDArray[np.int64]:
    """Integers k with probability proportional to exp(−k²/(2·std²)), exactly (but for `FARTHEST`), (count,).

    Algorithm 3 of Canonne, Kamath & Steinke with t = std = 2^b, where every coin is a comparison of integers:
    a discrete Laplace variable of scale t is kept with probability exp(−(|y| − std)²/(2·std²)).

    Raises:
        PlanError: If std is no power of two up to 2²⁴.
    """
    _checked_std(std)
    kept: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        # About 0.52 of the candidates are kept; too many are as good as a second round. The stream decides
        # all.
        candidates = _discrete_laplace(stream, std, 2 * missing + 64)
        far = np.abs(candidates) - std
        good = candidates[_exp_coins(stream, far * far, 2 * std * std)]
        kept.append(good[:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _discrete_laplace(stream: Stream, scale: int, candidates: int) -> NDArray[np.int64]:
    """Algorithm 2: about 0.6 of `candidates` integers with probability proportional to exp(−|y|/scale)."""
    low = _bits(stream, scale, candidates)
    low = low[_exp_coins(stream, low, scale)]
    high = _geometric(stream, len(low))
    size = low + scale * high
    negative = _bits(stream, 2, len(low)) == 1
    wanted = ~(negative & (size == 0)) & (high < FARTHEST)
    return np.where(negative, -size, size)[wanted]


def _geometric(stream: Stream, count: int) -> NDArray[np.int64]:
    """Number of heads in a row of coins that fall heads with probability 1/e."""
    heads = np.zeros(count, np.int64)
    alive = np.arange(count)
    while len(alive):
        alive = alive[_exp_coins(stream, np.ones(len(alive), np.int64), 1)]
        heads[alive] += 1
    return heads


def _exp_coins(stream: Stream, numerators: NDArray[np.int64], denominator: int) -> NDArray[np.bool_]:
    """Coins with probability exp(−numerator/denominator) of heads, exactly; denominator a power of two.

    Algorithm 1: exp(−γ) is exp(−1) to the ⌊γ⌋, times exp of the fraction.
    """
    whole, fraction = numerators // denominator, numerators % denominator
    heads = _exp_fraction(stream, fraction, denominator)
    alive = np.flatnonzero(heads & (whole > 0))
    while len(alive):
        passed = _exp_fraction(stream, np.ones(len(alive), np.int64), 1)
        heads[alive[~passed]] = False
        alive = alive[passed]
        whole[alive] -= 1
        alive = alive[whole[alive] > 0]
    return heads


def _exp_fraction(stream: Stream, numerators: NDArray[np.int64], denominator: int) -> NDArray[np.bool_]:
    """Heads with probability exp(−γ), 0 ≤ γ ≤ 1: the run of heads of coins γ/1, γ/2, γ/3, … is even."""
    even = np.ones(len(numerators), np.bool_)
    alive = np.arange(len(numerators))
    turn = 1
    while len(alive):
        # Probability γ/turn as two independent coins: γ, and one in `turn`.
        first = _bits(stream, denominator, len(alive)) < numerators[alive]
        alive = alive[first & (_below(stream, turn, len(alive)) == 0)]
        even[alive] ^= True
        turn += 1
    return even


def _bits(stream: Stream, power: int, count: int) -> NDArray[np.int64]:
    """Uniform on 0..power-1, a power of two."""
    if power == 1:
        return np.zeros(count, np.int64)
    return (stream.words(count) >> np.uint64(65 - power.bit_length())).astype(np.int64)


def _below(stream: Stream, limit: int, count: int) -> NDArray[np.int64]:
    """Uniform on 0..limit-1: words beyond the last multiple of `limit` are drawn again."""
    if limit & (limit - 1) == 0:
        return _bits(stream, limit, count)
    words = stream.words(count).copy()
    largest = np.uint64(2**64 // limit * limit - 1)
    while len(again := np.flatnonzero(words > largest)):
        words[again] = stream.words(len(again))
    return (words % np.uint64(limit)).astype(np.int64)


def _checked_std(std: int) -> None:
    if not 1 <= std <= STEPS_PER_STD or std & (std - 1):
        raise PlanError(f"{std} grid steps a standard deviation is no power of two up to {STEPS_PER_STD}")
