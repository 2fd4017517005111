# SPDX-License-Identifier: Apache-2.0
"""What the backward pass keeps of one use of one parameter: enough for exact norms, and for one weighted
sum later."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from confide.gradients.precision import lengthened
from confide.gradients.units import squared_norms, stretch_norms, without_rows

SMALL = 1024  # coordinates
# Gradients of few large images are shelved: of no more units, and no more numbers for one parameter.
_FEW, _SHELVED = 16, 1 << 17


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

    @property
    def flat(self) -> Tensor:
        """(U, n)."""
        return self.values.reshape(self.values.shape[0], self.values.shape[1:].numel())

    @property
    def small(self) -> bool:
        """Whether the calls on it cost more than their arithmetic."""
        return self.values.shape[1:].numel() <= SMALL

    def squared_norms(self) -> Tensor:
        """From the gradients."""
        return squared_norms(self.values)

    def gradients(self) -> Tensor:
        """The gradients."""
        return self.values

    def weighted(self, factors: Tensor, bad: Tensor) -> Tensor:
        """One matrix-vector product."""
        flat = lengthened(without_rows(self.flat, bad))
        return (factors.to(flat.dtype) @ flat).view(self.values.shape[1:])


@dataclass
class Rotated(Instantiated):
    """Gradients in other orthonormal coordinates, where their norms are the same: (U, n).

    Attributes:
        back: (U, n) -> (U, *shape), linear: the gradients in the parameter's own coordinates.
    """

    back: Callable[[Tensor], Tensor]

    @property
    def small(self) -> bool:
        """Never: their sum has to be turned back."""
        return False

    def gradients(self) -> Tensor:
        """Turned back."""
        return self.back(self.values)

    def weighted(self, factors: Tensor, bad: Tensor) -> Tensor:
        """One matrix-vector product; only the sum is turned back."""
        return self.back(super().weighted(factors, bad)[None])[0]


class Shelf:
    """One block of memory for the small gradients of a backward pass on a CPU.

    They outlive the activations between which they are formed. Left there, each keeps a hole from being
    filled by the next large tensor, and the heap grows: by a tenth for a U-Net on four volumes. Where many
    units share a batch, copying costs more than it saves.
    """

    def __init__(self, room: Tensor) -> None:
        self._room = room
        self._taken = 0

    @classmethod
    def of(cls, parameters: Sequence[Tensor], units: int) -> Shelf:
        """Room for `units` gradients of every parameter that is small enough."""
        sizes = [units * p.numel() for p in parameters if p.device.type == "cpu" and units <= _FEW]
        return cls(torch.empty(sum(size for size in sizes if size <= _SHELVED)))

    def kept(self, capture: Capture) -> Capture:
        """The capture, moved here if it fits."""
        if not len(self._room) or not isinstance(capture, Instantiated):
            return capture
        values, room = capture.values, self._room
        end = self._taken + values.numel()
        if end > len(room) or values.numel() > _SHELVED:
            return capture
        if values.dtype != room.dtype or values.device != room.device:
            return capture
        place = room[self._taken : end].view(values.shape)
        self._taken = end
        return replace(capture, values=place.copy_(values))


class SideBySide:
    """Gradients of several parameters in one matrix (U, n), float64: a few calls for all of their norms.

    Small gradients stand in it in full, so that it gives their weighted sums, too; for large ones there are
    the norms of short stretches.
    """

    def __init__(self, uses: Sequence[Instantiated]) -> None:
        self._count = len(uses)
        self._small = [number for number, use in enumerate(uses) if use.small]
        parts = [(number, uses[number].flat) for number in self._small]
        self._sizes = [part.shape[1] for _, part in parts]
        large = (number for number, use in enumerate(uses) if not use.small)
        parts += [(number, part) for number in large for part in stretch_norms(uses[number].values)]
        self._owners = tuple((number, part.shape[1]) for number, part in parts)
        self._values = torch.cat([part for _, part in parts], 1).double()

    def squared_norms(self) -> Tensor:
        """Of each unit and parameter: (U, P) float64."""
        out = self._values.new_zeros(self._count, len(self._values))
        return out.index_add_(0, _owner(self._owners, out.device), self._values.square().t().contiguous()).t()

    def small_sums(self, factors: Tensor, bad: Tensor) -> dict[int, Tensor]:
        """Number of each small parameter -> Σ_u factors_up·g_up, flat; factors (U, P), or (U, 1) for all."""
        values = without_rows(self._values, bad)[:, : sum(self._sizes)]
        if factors.shape[1] == 1:
            total = factors[:, 0] @ values
        else:
            owner = _owner(self._owners, values.device)[: values.shape[1]]
            total = (factors[:, owner] * values).sum(0)
        return dict(zip(self._small, torch.split(total, self._sizes), strict=True))


@functools.lru_cache(64)
def _owner(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """From ((number, size), ...): the number of each column."""
    return torch.tensor([number for number, size in sizes for _ in range(size)], device=device)


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
