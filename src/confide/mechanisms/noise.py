# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise from a keyed stream.

*Formal guarantee.* `add` returns sum + N(0, std²) in every coordinate, independent over coordinates and over streams. With W ranks
each adds N(0, std²/W), so that the sum over ranks carries std² once.

Floating point: normals are computed in float64 by Box–Muller from 63 random bits for the radius and 64 for the angle, so the
tails reach 9.3 standard deviations (a 24-bit uniform would end at 5.7, inside what δ = 1e-5 over 10⁴ steps can see),
and are rounded to the sum's own dtype when added. The lattice of the last bits can betray a sum in principle
(Mironov 2012); `confide.mechanisms.hardened` is the answer to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from confide.errors import PlanError
from confide.mechanisms.keys import Stream

# Numbers are made in pieces that stay in the cache.
_PIECE = 1 << 16


def standard_normals(stream: Stream, count: int) -> Tensor:
    """Independent N(0, 1) in float64 on the CPU, (count,); a function of the stream only."""
    out = torch.empty(count + count % 2, dtype=torch.float64)
    for start in range(0, len(out), _PIECE):
        _box_muller(stream, out[start : start + _PIECE])
    return out[:count]


def _box_muller(stream: Stream, out: Tensor) -> None:
    """Fill an even number of places."""
    half = len(out) // 2
    bits = torch.frombuffer(bytearray(stream.bytes(16 * half)), dtype=torch.int64)
    # (k + 1/2)/2^63 for 63 bits k lies in (0, 1]: its logarithm is finite.
    radius = bits[:half].bitwise_and_(2**63 - 1).double().add_(0.5).mul_(2.0**-63).log_().mul_(-2.0).clamp_min_(0.0).sqrt_()
    angle = bits[half:].double().mul_(math.pi * 2.0**-63)
    torch.mul(radius, angle.cos(), out=out[:half])
    torch.mul(radius, angle.sin_(), out=out[half:])


@dataclass(frozen=True)
class GaussianNoise:
    """Noise of one standard deviation, shared by `ranks` processes.

    Args:
        stddev: σ times the sensitivity of the sum it protects.
        ranks: Over how many processes' sums the noise is added up.
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
        return self.stddev / math.sqrt(self.ranks)

    def add(self, sums: dict[str, Tensor], stream: Stream) -> dict[str, Tensor]:
        """Noisy copies of the sums, each of its own shape, dtype and device.

        The stream is cut into one piece for each name, in order, so that no two coordinates share a number.
        """
        sizes = [tensor.numel() for tensor in sums.values()]
        normals = standard_normals(stream, sum(sizes)).mul_(self.share)
        return {
            name: tensor + piece.view(tensor.shape).to(tensor.dtype).to(tensor.device, non_blocking=True)
            for (name, tensor), piece in zip(sums.items(), normals.split(sizes), strict=True)
        }
