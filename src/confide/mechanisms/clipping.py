# SPDX-License-Identifier: Apache-2.0
"""Bounding what one privacy unit contributes to a sum.

*Formal guarantee.* For gradients g of one unit, in groups with norms (n_1..n_G), the contribution Σ_g factor_g·g has
an L2 norm of at most `sensitivity`, whatever the gradients are.

| case | factor |
|---|---|
| norm zero | finite; the contribution is zero anyway |
| any norm of the unit NaN or infinite | 0 for all its groups, by the same operations as for every other unit |
| norm above the bound by rounding | never: factors are rounded down by `MARGIN` |

Public: the bounds. Secret: norms and factors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from confide.errors import PlanError
from confide.privacy.plan import Release

# Norms come from float32 gradients through float64 sums: relative errors stay below a millionth.
MARGIN = 1e-6


class Clipping(ABC):
    """How one unit's gradient is scaled down; frozen."""

    @property
    @abstractmethod
    def sensitivity(self) -> float:
        """L2 bound of one unit's clipped contribution."""

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The clip group of each parameter; one group for all unless overridden."""
        return (0,) * len(names)

    def factors(self, norms: Tensor) -> Tensor:
        """Clip factors: norms (U, G) -> (U, G), in float64."""
        norms = norms.double()
        finite = torch.isfinite(norms).all(1, keepdim=True)
        scaled = self._scale(torch.where(finite, norms, torch.ones_like(norms)))
        return torch.where(finite, scaled * (1 - MARGIN), torch.zeros_like(scaled))

    @abstractmethod
    def _scale(self, norms: Tensor) -> Tensor:
        """Factors for finite norms (U, G)."""

    def release(self, noise_multiplier: float) -> Release | None:  # noqa: ARG002
        """The statistic that this clipping needs released with every step of noise multiplier σ, if any."""
        return None

    def updated(self, unclipped: float) -> Self:  # noqa: ARG002
        """The clipping of the next step, from the released share of unclipped units."""
        return self


def _checked(bound: float) -> float:
    if not (math.isfinite(bound) and bound > 0):
        raise PlanError(f"clip norm {bound} is not a positive number", remedy="Typical values lie between 0.1 and 10.")
    return float(bound)


@dataclass(frozen=True)
class FlatClipping(Clipping):
    """g · min(1, C/‖g‖) over all parameters together: Abadi et al. (2016), arXiv:1607.00133."""

    bound: float

    def __post_init__(self) -> None:
        _checked(self.bound)

    @property
    def sensitivity(self) -> float:
        """C."""
        return self.bound

    def _scale(self, norms: Tensor) -> Tensor:
        return self.bound / norms.clamp_min(self.bound)


@dataclass(frozen=True)
class PerLayerClipping(Clipping):
    """Each layer's gradient clipped to its own bound; the sensitivity is the root of the sum of squares.

    Clipping nine layers separately to C each and claiming C would multiply the privacy loss; here the whole is stated.

    Args:
        bounds: Bound of each layer, by the part of a parameter's name before the last dot.
    """

    bounds: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for _, bound in self.bounds:
            _checked(bound)

    @classmethod
    def even(cls, total: float, names: Sequence[str]) -> PerLayerClipping:
        """The same bound C/√L for each of the L layers, so that the sensitivity is C."""
        layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
        each = _checked(total) / math.sqrt(max(1, len(layers)))
        return cls(tuple((layer, each) for layer in layers))

    @property
    def sensitivity(self) -> float:
        """√ΣC_l²."""
        return math.sqrt(math.fsum(bound**2 for _, bound in self.bounds))

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The position of each parameter's layer.

        Raises:
            PlanError: If a parameter's layer has no bound.
        """
        position = {layer: index for index, (layer, _) in enumerate(self.bounds)}
        missing = [name for name in names if name.rpartition(".")[0] not in position]
        if missing:
            raise PlanError(f"no clip norm is given for {missing[0]!r}", remedy="Use PerLayerClipping.even(total, names).")
        return tuple(position[name.rpartition(".")[0]] for name in names)

    def _scale(self, norms: Tensor) -> Tensor:
        bounds = torch.tensor([bound for _, bound in self.bounds], dtype=norms.dtype, device=norms.device)
        return bounds / torch.maximum(norms, bounds)


@dataclass(frozen=True)
class AutomaticClipping(Clipping):
    """g · C/(‖g‖ + γ): every gradient is normalised, so no bound needs tuning. Bu et al. (2023), arXiv:2206.07136."""

    bound: float = 1.0
    gamma: float = 0.01

    def __post_init__(self) -> None:
        _checked(self.bound)
        _checked(self.gamma)

    @property
    def sensitivity(self) -> float:
        """C: the norm of the contribution is C·‖g‖/(‖g‖ + γ) < C."""
        return self.bound

    def _scale(self, norms: Tensor) -> Tensor:
        return self.bound / (norms + self.gamma)


@dataclass(frozen=True)
class AdaptiveClipping(Clipping):
    """A bound that follows a quantile of the norms. Andrew et al. (2021), arXiv:1905.03871.

    Each step releases the share of units left unclipped, with noise of its own inside the step's budget, and the
    bound moves geometrically: C ← C·exp(−rate·(share − quantile)).

    Args:
        bound: The first bound C.
        quantile: Share of units to leave unclipped.
        rate: Learning rate of log C.
        noise_ratio: Noise multiplier of the released share as a multiple of the step's; 10 costs the gradient 0.5 %.
        lowest, highest: The bound never leaves this range.
    """

    bound: float
    quantile: float = 0.5
    rate: float = 0.2
    noise_ratio: float = 10.0
    lowest: float = 1e-4
    highest: float = 1e4

    def __post_init__(self) -> None:
        _checked(self.bound)
        if not 0 < self.quantile < 1:
            raise PlanError(f"quantile {self.quantile} is outside (0, 1)")

    @property
    def sensitivity(self) -> float:
        """The present C."""
        return self.bound

    def _scale(self, norms: Tensor) -> Tensor:
        return self.bound / norms.clamp_min(self.bound)

    def release(self, noise_multiplier: float) -> Release:
        """The share of unclipped units; one unit changes its centred count by at most 1/2."""
        return Release("clip-fraction", self.noise_ratio * noise_multiplier)

    def updated(self, unclipped: float) -> Self:
        """Move the bound towards the quantile; computed from released values only."""
        moved = self.bound * math.exp(-self.rate * (min(max(unclipped, 0.0), 1.0) - self.quantile))
        return replace(self, bound=min(max(moved, self.lowest), self.highest))
