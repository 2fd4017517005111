# SPDX-License-Identifier: Apache-2.0
"""The private mechanism of a training run: one object owns sampling, clipping, noise and their accounting event.

*Formal guarantee.* One call of `release` is a Gaussian mechanism of noise multiplier `plan.noise_multiplier` on the
vector (clipped gradient sum, side statistics), applied to units sampled by `plan.sampling`. Whatever is computed
from the returned values afterwards is post-processing.

| case | what happens |
|---|---|
| no unit sampled | zero sums, and the noise as ever |
| a unit with a non-finite gradient or loss | contributes zero |
| K views, several images of a patient | averaged to one gradient before clipping |
| several physical batches, several ranks | sums are added; one noise draw in total |

Public: the plan, the clip bound, the shapes. Secret: the key, the sampled units, everything before the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confide.mechanisms.clipping import Clipping
from confide.mechanisms.keys import RunKey
from confide.mechanisms.noise import GaussianNoise
from confide.mechanisms.sampling import draw
from confide.privacy.plan import PrivacyPlan, Release
from confide.training.ranks import Ranks

# A unit's loss counts between 0 and this bound in the released mean: cross-entropy of a uniform guess among 50 classes.
LOSS_BOUND = 4.0
# Noise of the released loss as a multiple of the gradient's: costs the gradient a factor (1 - 1/900)^-1/2 = 1.0006.
LOSS_NOISE = 30.0


def with_releases(plan: PrivacyPlan, clipping: Clipping, *, loss: bool) -> PrivacyPlan:
    """The same claim, of which a small share pays for what the loop releases beside the gradient.

    Args:
        clipping: Adaptive clipping needs the share of unclipped units.
        loss: Whether the mean training loss of every step is released.
    """
    wanted = [Release("loss", LOSS_NOISE * plan.noise_multiplier)] if loss else []
    asked = clipping.release(plan.noise_multiplier)
    wanted += [asked] if asked else []
    there = {release.name for release in plan.releases}
    return replace(
        plan, releases=(*plan.releases, *(release for release in wanted if release.name not in there))
    )


@dataclass(frozen=True)
class Contribution:
    """Un-noised sums over sampled units. It never leaves the step."""

    sums: dict[str, Tensor]
    losses: Tensor
    unclipped: Tensor

    @classmethod
    def nothing(cls, parameters: dict[str, Tensor]) -> Contribution:
        """Zero sums for these parameters."""
        device = next(iter(parameters.values())).device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls({name: torch.zeros_like(p) for name, p in parameters.items()}, zero, zero.clone())

    def add(self, sums: dict[str, Tensor], losses: Tensor, factors: Tensor) -> None:
        """Add one physical batch: clipped sums, mean loss of each unit (U,), clip factors (U, G)."""
        names = list(self.sums)
        torch._foreach_add_([self.sums[n] for n in names], [sums[n] for n in names])
        bounded = torch.nan_to_num(losses.double(), nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, LOSS_BOUND)
        self.losses.add_(bounded.sum())
        # A unit counts as unclipped when its factor is at least one; centred, so that one unit changes it by 1/2.
        self.unclipped.add_((factors.amin(1) >= 1).double().sub_(0.5).sum())


@dataclass(frozen=True)
class Released:
    """What the mechanism gives out: privatised, divided by the constant expected batch size."""

    gradients: dict[str, Tensor]
    loss: float | None
    unclipped: float | None


class PrivateMechanism:
    """Sampler, clipping, noise and accounting event of one plan.

    Args:
        plan: Says how units are sampled, how much noise is added, and what that costs.
        clipping: Bounds one unit's gradient and states the bound as its sensitivity.
        key: The run's secret; every random number of the mechanism is a function of it and the step.
        ranks: This process among those that share the work.
    """

    def __init__(
        self, plan: PrivacyPlan, clipping: Clipping, key: RunKey, ranks: Ranks | None = None
    ) -> None:
        self.plan = plan
        self.clipping = clipping
        self.ranks = ranks or Ranks()
        self._key = key
        self._noise = {release.name: release.noise_multiplier for release in plan.releases}

    def units(self, step: int, population: int) -> NDArray[np.int64]:
        """This rank's sampled units of a step; the only place that sees how many units there are."""
        stream = self._key.stream("sampling", step=step)
        return self.ranks.share(draw(self.plan.sampling, population, stream))

    def views_seed(self, step: int) -> int:
        """Seed of the step's augmentation; it needs no secrecy."""
        return int.from_bytes(self._key.stream("views", step=step).bytes(8), "little")

    def release(self, step: int, contribution: Contribution) -> Released:
        """Add the noise of a step, once, and divide by the expected batch size.

        Consumes `contribution`: its tensors are overwritten.
        """
        names = list(contribution.sums)
        std = self.plan.gradient_noise_multiplier * self.clipping.sensitivity
        noise = GaussianNoise(std, ranks=self.ranks.world)
        noisy = noise.add(contribution.sums, self._key.stream("noise", step=step, rank=self.ranks.rank))
        statistics = {
            "loss": (contribution.losses, LOSS_BOUND),
            "clip-fraction": (contribution.unclipped, 0.5),
        }
        released: dict[str, Tensor] = {}
        for index, (name, multiplier) in enumerate(sorted(self._noise.items())):
            value, sensitivity = statistics[name]
            side = GaussianNoise(multiplier * sensitivity, ranks=self.ranks.world)
            stream = self._key.stream("statistic", step=step, index=index, rank=self.ranks.rank)
            released[name] = side.add({name: value.reshape(1)}, stream)[name]
        self.ranks.total([*noisy.values(), *released.values()])
        divisor = self.plan.expected_batch_size
        torch._foreach_div_([noisy[n] for n in names], divisor)
        loss = released.get("loss")
        share = released.get("clip-fraction")
        if share is not None:
            self.clipping = self.clipping.updated(float(share) / divisor + 0.5)
        return Released(
            noisy,
            None if loss is None else float(loss) / divisor,
            None if share is None else float(share) / divisor + 0.5,
        )
