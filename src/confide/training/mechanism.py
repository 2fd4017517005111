# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false
"""The private mechanism of a training run: one object owns sampling, clipping, noise and accounting event.

*Formal guarantee.* One call of `release` is a Gaussian mechanism of noise multiplier `plan.noise_multiplier`
on the vector (clipped gradient sum, side statistics), applied to units sampled by `plan.sampling`; where the
plan has `integers`, its discrete counterpart. Whatever is computed from the returned values afterwards is
post-processing.

| case | what happens |
|---|---|
| no unit sampled | zero sums, and the noise as ever |
| a unit with a non-finite gradient or loss | contributes zero |
| K views, several images of a patient | averaged to one gradient before clipping |
| several physical batches, several ranks | sums are added; one noise draw in total |

Public: the plan, the clip bound, the shapes. Secret: the key, the sampled units, everything before the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from confide.errors import PlanError
from confide.mechanisms.clipping import Clipping
from confide.mechanisms.keys import RunKey, Stream
from confide.mechanisms.noise import GaussianNoise, NoiseAhead
from confide.mechanisms.sampling import draw
from confide.privacy.plan import PrivacyPlan, Release
from confide.training.contribution import (
    CLIP_FRACTION_BOUND,
    LOSS_BOUND,
    SENSITIVITY,
    Contribution,
    FloatContribution,
)
from confide.training.integers import IntegerContribution, grids, noisy
from confide.training.ranks import Ranks

__all__ = ["LOSS_BOUND", "LOSS_NOISE", "PrivateMechanism", "Released", "with_releases"]

# Noise of the released loss as a multiple of the gradient's: costs the gradient a factor (1 - 1/900)^-1/2 =
# 1.0006.
LOSS_NOISE = 30.0


def with_releases(plan: PrivacyPlan, clipping: Clipping, *, loss: bool) -> PrivacyPlan:
    """The same claim, of which a small share pays for what the loop releases beside the gradient.

    Args:
        plan: Whose noise multiplier stays that of the whole step.
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

    Raises:
        PlanError: If the plan releases a statistic that no step computes, or lacks one that clipping needs.
    """

    def __init__(
        self, plan: PrivacyPlan, clipping: Clipping, key: RunKey, ranks: Ranks | None = None
    ) -> None:
        _check_releases(plan, clipping)
        self.plan = plan
        self.clipping = clipping
        self.ranks = ranks or Ranks()
        self._key = key
        self._ahead: NoiseAhead | None = None

    @property
    def hardened(self) -> bool:
        """Whether sums are integers and the noise is discrete."""
        return self.plan.integers > 0

    def units(self, step: int, population: int) -> NDArray[np.int64]:
        """This rank's sampled units of a step; the only place that sees how many units there are."""
        stream = self._key.stream("sampling", step=step)
        return self.ranks.share(draw(self.plan.sampling, population, stream))

    def views_seed(self, step: int) -> int:
        """Seed of the step's augmentation; it needs no secrecy."""
        return int.from_bytes(self._key.stream("views", step=step).bytes(8), "little")

    def nothing(self, parameters: dict[str, Tensor]) -> Contribution:
        """An empty contribution of the present step, to which its physical batches are added.

        Raises:
            PlanError: If a hardened plan was made for another number of parameters.
        """
        if not self.hardened:
            return FloatContribution.nothing(parameters)
        count = sum(p.numel() for p in parameters.values()) + len(self.plan.releases)
        if count != self.plan.integers:
            raise PlanError(
                f"a hardened step releases {count} numbers, the plan accounts for {self.plan.integers}",
                remedy="Make the plan with integers=released_numbers(model, statistics).",
            )
        return IntegerContribution.nothing(parameters, grids(self.plan, self.clipping))

    def release(self, step: int, contribution: Contribution) -> Released:
        """Add the noise of a step, once, and divide by the expected batch size.

        Consumes `contribution`: its tensors are overwritten.
        """
        divisor = self.plan.expected_batch_size
        if isinstance(contribution, IntegerContribution):
            gradients, statistics = noisy(contribution, self._key, step, self.ranks)
            for gradient in gradients.values():
                gradient.div_(divisor)
        else:
            assert isinstance(contribution, FloatContribution)
            gradients, statistics = self._noisy_floats(step, contribution, divisor)
        shown = {name: float(value) / divisor for name, value in statistics.items()}
        loss, centred = shown.get("loss"), shown.get("clip-fraction")
        unclipped = None if centred is None else centred + CLIP_FRACTION_BOUND
        if unclipped is not None:
            self.clipping = self.clipping.updated(unclipped)
        return Released(gradients, loss, unclipped)

    def _noisy_floats(
        self, step: int, contribution: FloatContribution, divisor: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients, already divided, and statistics, not."""
        noise = self._noise()
        if self._ahead is None:
            gradients = noise.add_(contribution.sums, self._stream(step), divisor)
        else:
            gradients = self._ahead.add_(noise, contribution.sums, step, divisor)
        statistics: dict[str, Tensor] = {}
        for index, (name, multiplier) in enumerate(sorted(_multipliers(self.plan).items())):
            side = GaussianNoise(multiplier * SENSITIVITY[name], ranks=self.ranks.world)
            stream = self._key.stream("statistic", step=step, index=index, rank=self.ranks.rank)
            statistics |= side.add_({name: contribution.statistics[name]}, stream)
        self.ranks.total([*gradients.values(), *statistics.values()])
        return gradients, statistics

    def _noise(self) -> GaussianNoise:
        std = self.plan.gradient_noise_multiplier * self.clipping.sensitivity
        return GaussianNoise(std, ranks=self.ranks.world)

    def _stream(self, step: int) -> Stream:
        return self._key.stream("noise", step=step, rank=self.ranks.rank)

    def begin(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Draw a charged step's noise in a thread until it is released; call `close` at the end.

        Hardened noise is drawn when it is released.
        """
        if self.hardened:
            return
        if self._ahead is None:
            self._ahead = NoiseAhead(self._stream)
        self._ahead.begin(self._noise(), step, parameters)

    def close(self) -> None:
        """Stop the thread that draws ahead, if there is one."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def _multipliers(plan: PrivacyPlan) -> dict[str, float]:
    return {release.name: release.noise_multiplier for release in plan.releases}


def _check_releases(plan: PrivacyPlan, clipping: Clipping) -> None:
    names = set(_multipliers(plan))
    unknown = names - set(SENSITIVITY)
    if unknown:
        raise PlanError(
            f"the plan releases {min(unknown)!r}, which no step computes",
            remedy=f"Known are: {', '.join(SENSITIVITY)}.",
        )
    asked = clipping.release(plan.noise_multiplier)
    if asked is not None and asked.name not in names:
        raise PlanError(
            f"{type(clipping).__name__} needs the plan to release {asked.name!r}",
            remedy="Pass the plan through confide.training.mechanism.with_releases.",
        )
