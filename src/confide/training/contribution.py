# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false
"""What sampled units contribute to a step, before any noise: sums that never leave the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from confide.gradients.units import add_into

# A unit's loss counts between 0 and this bound in the released mean: about the cross-entropy of a uniform
# guess among 50 classes.
LOSS_BOUND = 4.0
# One unit changes the centred count of unclipped units by so much.
CLIP_FRACTION_BOUND = 0.5
# Name of each side statistic, as the plan's releases call it, and how far one unit moves its sum.
SENSITIVITY = {"loss": LOSS_BOUND, "clip-fraction": CLIP_FRACTION_BOUND}


class Contribution(ABC):
    """Un-noised sums over sampled units."""

    @abstractmethod
    def add(self, sums: dict[str, Tensor], losses: Tensor, factors: Tensor) -> None:
        """Add one physical batch.

        Args:
            sums: name -> clipped sum of the parameter's shape.
            losses: (U,) mean loss of each unit.
            factors: (U, G) clip factors.
        """


@dataclass(frozen=True)
class FloatContribution(Contribution):
    """Sums in the parameters' own dtype; statistics in float64.

    Attributes:
        sums: name -> tensor of the parameter's shape.
        statistics: name -> scalar.
    """

    sums: dict[str, Tensor]
    statistics: dict[str, Tensor]

    @classmethod
    def nothing(cls, parameters: dict[str, Tensor]) -> FloatContribution:
        """Zero sums for these parameters."""
        device = next(iter(parameters.values())).device
        zeros = {name: torch.zeros(1, dtype=torch.float64, device=device) for name in SENSITIVITY}
        return cls({name: torch.zeros_like(p) for name, p in parameters.items()}, zeros)

    def add(self, sums: dict[str, Tensor], losses: Tensor, factors: Tensor) -> None:
        """Add one physical batch."""
        add_into(self.sums.values(), (sums[name] for name in self.sums))
        for name, values in unit_statistics(losses, factors).items():
            self.statistics[name].add_(values.sum())


def unit_statistics(losses: Tensor, factors: Tensor) -> dict[str, Tensor]:
    """What each unit adds to the side statistics, name -> (U,) float64, within `SENSITIVITY`.

    A non-finite loss counts as zero. A unit counts as unclipped when its factors are at least one; centred,
    so that its presence changes the sum by one half only.
    """
    bounded = torch.nan_to_num(losses.double(), nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, LOSS_BOUND)
    unclipped = (factors.amin(1) >= 1).double().sub_(CLIP_FRACTION_BOUND)
    return {"loss": bounded, "clip-fraction": unclipped}
