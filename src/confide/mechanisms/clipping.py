# SPDX-License-Identifier: Apache-2.0
"""Bounding what one privacy unit contributes to a sum.

*Formal guarantee.* For gradients g of one unit, in groups with norms (n_1..n_G), the contribution Σ_g
factor_g·g has an L2 norm of at most `sensitivity`, whatever the gradients are.

| case | factor |
|---|---|
| norm zero | finite; the contribution is zero anyway |
| any norm of the unit NaN or infinite | 0 for all its groups, by the same operations as for all |
| contribution above the bound by rounding | never: clipped to the bound less `MARGIN` |
| norm below the bound less the margin | exactly 1: the gradient counts as unclipped |

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

# Relative. Above the rounding of a norm in float64, over any number of coordinates; gradients in float32 have
# rounding of their own, which belongs to what "floating-point noise is not hardened" excludes.
MARGIN = 1e-11


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
        scaled = self._scale(torch.where(finite, norms, 1.0))
        return torch.where(finite, scaled, 0.0)

    @abstractmethod
    def _scale(self, norms: Tensor) -> Tensor:
        """Factors for finite norms (U, G): factor·norm is at most the group's bound less `MARGIN`."""

    def release(self, noise_multiplier: float) -> Release | None:
        """The statistic that this clipping needs released with every step of noise multiplier σ, if any."""
        return None

    def updated(self, unclipped: float) -> Self:
        """The clipping of the next step, from the released share of unclipped units."""
        return self


def _clipped_to(bound: Tensor | float, norms: Tensor) -> Tensor:
    """min(1, bound/norm) in float64, with the margin taken off the bound."""
    # A tensor: torch divides a number by x as number·(1/x), which is not always 1 where it should be.
    least = torch.as_tensor(bound * (1 - MARGIN), dtype=norms.dtype, device=norms.device)
    return least / torch.maximum(norms, least)


def _checked(bound: float) -> float:
    if not (math.isfinite(bound) and bound > 0):
        raise PlanError(
            f"clip norm {bound} is not a positive number", remedy="Typical values lie between 0.1 and 10."
        )
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
        return _clipped_to(self.bound, norms)


@dataclass(frozen=True)
class PerLayerClipping(Clipping):
    """Each layer's gradient clipped to its own bound; the sensitivity is the root of the sum of squares.

    Clipping nine layers separately to C each and claiming C would multiply the privacy loss; here the whole
    is stated.

    Args:
        bounds: Bound of each layer, by the part of a parameter's name before the last dot.
    """

    bounds: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for _, bound in self.bounds:
            _checked(bound)
        if len({layer for layer, _ in self.bounds}) != len(self.bounds) or not self.bounds:
            raise PlanError("per-layer clipping needs one bound for each layer, and at least one layer")

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
            raise PlanError(
                f"no clip norm is given for {missing[0]!r}", remedy="Use PerLayerClipping.even(total, names)."
            )
        return tuple(position[name.rpartition(".")[0]] for name in names)

    def _scale(self, norms: Tensor) -> Tensor:
        bounds = torch.tensor([bound for _, bound in self.bounds], dtype=norms.dtype, device=norms.device)
        return _clipped_to(bounds, norms)


@dataclass(frozen=True)
class AutomaticClipping(Clipping):
    """g · C/(‖g‖ + γ): every gradient is normalised, so no bound needs tuning.

    Bu et al. (2023), arXiv:2206.07136.
    """

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
        return self.bound * (1 - MARGIN) / (norms + self.gamma)


@dataclass(frozen=True)
class AdaptiveClipping(Clipping):
    """A bound that follows a quantile of the norms. Andrew et al. (2021), arXiv:1905.03871.

    Each step releases the share of units left unclipped, with noise of its own inside the step's budget, and
    the
    bound moves geometrically: C ← C·exp(−rate·(share − quantile)). The noise of every step keeps its multiple
        of the
    step's own C, so that ε does not depend on the course the bound takes.

    Args:
        bound: The first bound C.
        quantile: Share of units to leave unclipped.
        rate: Learning rate of log C.
        noise_ratio: Noise multiplier of the released share as a multiple of the step's; 10 costs the gradient
            0.5 %.
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
        if not 0 < self.rate < math.inf:
            raise PlanError(f"the learning rate {self.rate} of the clip norm is not a positive number")
        if not 1 < self.noise_ratio < math.inf:
            raise PlanError(
                f"noise ratio {self.noise_ratio} leaves no budget for the gradient",
                remedy="Typical values are 5 to 20.",
            )
        if not 0 < self.lowest <= self.bound <= self.highest < math.inf:
            raise PlanError(f"clip norm {self.bound} is outside {self.lowest}..{self.highest}")

    @property
    def sensitivity(self) -> float:
        """The present C."""
        return self.bound

    def _scale(self, norms: Tensor) -> Tensor:
        return _clipped_to(self.bound, norms)

    def release(self, noise_multiplier: float) -> Release:
        """The share of unclipped units; one unit changes its centred count by at most 1/2."""
        return Release("clip-fraction", self.noise_ratio * noise_multiplier)

    def updated(self, unclipped: float) -> Self:
        """Move the bound towards the quantile; computed from released values only."""
        moved = self.bound * math.exp(-self.rate * (min(max(unclipped, 0.0), 1.0) - self.quantile))
        return replace(self, bound=min(max(moved, self.lowest), self.highest))
