# SPDX-License-Identifier: Apache-2.0
"""What the backward pass keeps of one use of one parameter: enough for exact norms, and for one weighted
sum later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from confide.gradients.units import squared_norms, without_rows


class Capture(ABC):
    """One use of one parameter in a forward pass."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Squared norm of each unit's gradient: (U,) float64."""

    @abstractmethod
    def gradients(self) -> Tensor:
        """Each unit's gradient: (U, *shape)."""

    @abstractmethod
    def weighted(self, factors: Tensor, bad: Tensor) -> Tensor:
        """Σ_u factors_u·g_u, of the parameter's shape; rows `bad` have factor zero and may hold NaN. Called
        once."""


@dataclass
class Instantiated(Capture):
    """The gradients themselves: (U, *shape)."""

    values: Tensor

    def squared_norms(self) -> Tensor:
        """From the gradients."""
        return squared_norms(self.values)

    def gradients(self) -> Tensor:
        """The gradients."""
        return self.values

    def weighted(self, factors: Tensor, bad: Tensor) -> Tensor:
        """One matrix-vector product."""
        flat = without_rows(self.values.reshape(len(self.values), -1), bad)
        return (factors.to(flat.dtype) @ flat).view(self.values.shape[1:])


@dataclass
class Ghost(Capture):
    """Inputs and output gradients of a layer: norms by a Gram formula, the sum by the ordinary weight
    gradient.

    Attributes:
        inputs, grads: (B, ...) of the layer, one row a unit.
        norms: (inputs, grads) -> (U,) squared norms, float64.
        instantiate: (inputs, grads) -> (U, *shape).
        total: (inputs, grads) -> the ordinary weight gradient, summed over rows.
    """

    inputs: Tensor
    grads: Tensor
    norms: Callable[[Tensor, Tensor], Tensor]
    instantiate: Callable[[Tensor, Tensor], Tensor]
    total: Callable[[Tensor, Tensor], Tensor]

    def squared_norms(self) -> Tensor:
        """By the Gram formula; cancellation can make it slightly negative, which is no norm."""
        return self.norms(self.inputs, self.grads).clamp_min(0.0)

    def gradients(self) -> Tensor:
        """Formed after all, because the parameter is used more than once."""
        return self.instantiate(self.inputs, self.grads)

    def weighted(self, factors: Tensor, bad: Tensor) -> Tensor:
        """The factors enter the output gradients; then the layer's own weight gradient."""
        shape = (-1, *[1] * (self.grads.dim() - 1))
        scaled = without_rows(self.grads * factors.to(self.grads.dtype).view(shape), bad)
        # The inputs of a bad row may be NaN, and 0·NaN is NaN.
        return self.total(self.inputs.index_fill(0, bad, 0.0), scaled)


def combined(captures: list[Capture]) -> Capture:
    """One capture for all uses of a parameter: gradients of several uses are added before the norm."""
    if len(captures) == 1:
        return captures[0]
    return Instantiated(torch.stack([capture.gradients() for capture in captures]).sum(0))
