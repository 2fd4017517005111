# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Hardened steps: integers instead of floating-point sums, exact discrete noise instead of Gaussian.

Each unit's clipped gradient, computed from that unit alone, is truncated to integers of a bounded norm
(`confide.mechanisms.hardened`); integers are summed exactly, over physical batches and over ranks, and every
rank adds the same discrete noise to the total, which therefore carries it once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from confide.mechanisms.clipping import Clipping
from confide.mechanisms.hardened import IntegerGrid
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.training.contribution import SENSITIVITY, Contribution, unit_statistics
from confide.training.ranks import Ranks


def released_numbers(model: nn.Module, statistics: int) -> int:
    """Numbers that a hardened step releases: trainable parameters and side statistics. For `PrivacyPlan`.

    Args:
        model: What is trained.
        statistics: Side statistics of a step: the mean loss, the share of unclipped units.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad) + statistics


def grids(plan: PrivacyPlan, clipping: Clipping) -> dict[str | None, IntegerGrid]:
    """The grid of the gradient, under None, and of each released statistic."""
    found: dict[str | None, IntegerGrid] = {
        None: IntegerGrid(plan.gradient_noise_multiplier, clipping.sensitivity)
    }
    for release in plan.releases:
        found[release.name] = IntegerGrid(release.noise_multiplier, SENSITIVITY[release.name])
    return found


@dataclass(frozen=True)
class IntegerContribution(Contribution):
    """Integer sums on the CPU: of gradients, all parameters in one vector (D,), and of statistics (1,)."""

    grids: dict[str | None, IntegerGrid]
    sums: dict[str | None, Tensor]
    shapes: dict[str, torch.Size]

    @classmethod
    def nothing(
        cls, parameters: dict[str, Tensor], made: dict[str | None, IntegerGrid]
    ) -> IntegerContribution:
        """Zero sums for these parameters."""
        size = sum(p.numel() for p in parameters.values())
        sums = {name: torch.zeros(1 if name else size, dtype=torch.int64) for name in made}
        return cls(made, sums, {name: p.shape for name, p in parameters.items()})

    def add(self, sums: dict[str, Tensor], losses: Tensor, factors: Tensor) -> None:
        """Add one physical batch, which holds one unit."""
        whole = torch.cat([sums[name].reshape(-1).cpu().double() for name in self.shapes])
        self.sums[None].add_(self.grids[None].clip(whole[None])[0])
        for name, values in unit_statistics(losses, factors).items():
            if name in self.grids:
                self.sums[name].add_(self.grids[name].clip(values[:, None]).sum(0))


def noisy(
    contribution: IntegerContribution, key: RunKey, step: int, ranks: Ranks
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Privatised sums in float64 on the CPU: parameters by name, statistics by name."""
    names = list(contribution.sums)
    ranks.total([contribution.sums[name] for name in names])
    real: dict[str | None, Tensor] = {}
    for index, name in enumerate(names):
        # The same stream on every rank: the total carries the noise once.
        stream = key.stream("integer noise", step=step, index=index)
        grid = contribution.grids[name]
        real[name] = grid.to_real(grid.noisy_sum(contribution.sums[name][None], stream))
    sizes = [shape.numel() for shape in contribution.shapes.values()]
    parts = real[None].split(sizes)
    gradients = {
        name: part.view(shape) for (name, shape), part in zip(contribution.shapes.items(), parts, strict=True)
    }
    return gradients, {name: value for name, value in real.items() if name is not None}
