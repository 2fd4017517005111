# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false
"""The privacy plan: the one place where sampling, noise, steps and the privacy unit meet.

The sampler, the noise and the accountant are all derived from a plan, so they cannot disagree. A plan is
public; it holds no secret and nothing computed from private data.

*Formal guarantee.* The sequence of T = `steps` privatised sums is (ε, δ)-DP for the plan's unit and the
adjacency of its sampling, with ε = `epsilon()`, if each unit's contribution is bounded by the clip norm C,
the noise of each step has standard deviation `gradient_noise_multiplier`·C, and sums are divided by constants
of the plan only.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from confide.errors import PlanError
from confide.privacy import accountants
from confide.privacy.accountants import Accountant, accountant_named
from confide.privacy.assumptions import assumptions
from confide.privacy.calibration import calibrate
from confide.privacy.discrete import distance, epsilon_besides
from confide.privacy.groups import checked_size, group_epsilon, poisson_group_event
from confide.privacy.guarantee import Guarantee
from confide.privacy.releases import Release, gradient_share
from confide.privacy.schemes import (
    FixedSizeSampling,
    FullBatch,
    PoissonSampling,
    Sampling,
    expected_size,
    sampling_from_dict,
)
from confide.privacy.units import PrivacyUnit

if TYPE_CHECKING:
    from dp_accounting import DpEvent

__all__ = ["Guarantee", "PrivacyPlan", "Release"]


@dataclass(frozen=True)
class PrivacyPlan:
    """Noise, sampling, steps and privacy unit of one training run.

    Attributes:
        noise_multiplier: σ of a whole step: gradient and side statistics together.
        sampling_rate: q, the probability that a unit is in a batch.
        steps: T, noisy updates.
        delta: δ; must be below 1/n.
        units: n, the number of privacy units, declared public.
        unit: What one unit is.
        sampling: How units enter a batch; default Poisson with rate q.
        releases: Side statistics that share the step's noise budget.
        integers: Numbers that a step releases as integers with discrete noise (hardened mode: parameters and
            statistics together, `confide.training.integers.released_numbers`); 0: floating-point noise.

    Raises:
        PlanError: If no mechanism can have these parameters.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    units: int
    unit: PrivacyUnit = PrivacyUnit.IMAGE
    sampling: Sampling = None  # type: ignore[assignment]  # filled in below
    releases: tuple[Release, ...] = ()
    integers: int = 0

    def __post_init__(self) -> None:
        _check(self)
        if self.sampling is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "sampling", PoissonSampling(self.sampling_rate))
        object.__setattr__(self, "unit", _unit(self.unit))
        # dp-accounting and JSON know Python's integers only.
        object.__setattr__(self, "steps", int(self.steps))
        object.__setattr__(self, "units", int(self.units))
        object.__setattr__(self, "integers", whole("integers", self.integers, least=0))
        rate = self.sampling.rate(self.units)
        if not math.isclose(rate, self.sampling_rate, rel_tol=1e-12):
            raise PlanError(
                f"sampling rate {self.sampling_rate} disagrees with {self.sampling.name} sampling,"
                f" whose rate is {rate}"
            )
        _ = self.gradient_noise_multiplier

    @classmethod
    def for_budget(
        cls,
        *,
        epsilon: float,
        delta: float,
        units: int,
        batch_size: int,
        epochs: float | None = None,
        steps: int | None = None,
        unit: PrivacyUnit = PrivacyUnit.IMAGE,
        sampling: Sampling | None = None,
        releases: tuple[Release, ...] = (),
        integers: int = 0,
    ) -> Self:
        """The plan with the least noise that keeps ε(δ) ≤ `epsilon`, by the claim's accountant.

        Args:
            epsilon: Target ε > 0; never exceeded.
            batch_size: Expected number of units in a batch; q = batch_size / units.
            epochs: Passes over the data: T = ⌈epochs·n/B⌉; or give `steps`.

        Raises:
            PlanError: If an argument is impossible, or no noise reaches the target.
        """
        if not 0 < epsilon < math.inf:
            raise PlanError(
                f"epsilon {epsilon} is not a positive number", remedy="Typical values lie between 0.5 and 10."
            )
        draft = cls.for_schedule(
            noise_multiplier=1.0,
            delta=delta,
            units=units,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            unit=unit,
            sampling=sampling,
            integers=integers,
        )

        def spends(sigma: float, coarse: float = 1.0) -> float:
            return replace(draft, noise_multiplier=sigma)._claimed(draft.steps, delta, coarse)

        def roughly(sigma: float) -> float:
            return accountants.rdp_epsilon(
                draft.sampling.event(sigma, draft.steps), delta, accountants.SCOUT_ORDERS
            )

        # RDP finds the region, a grid ten times coarser the neighbourhood; both overstate ε, and are quick.
        near = calibrate(roughly, epsilon, precision=0.02)
        near = calibrate(lambda sigma: spends(sigma, 10.0), epsilon, start=near, precision=1e-3)
        return replace(draft, noise_multiplier=calibrate(spends, epsilon, start=near), releases=releases)

    @classmethod
    def for_schedule(
        cls,
        *,
        noise_multiplier: float,
        delta: float,
        units: int,
        batch_size: int,
        epochs: float | None = None,
        steps: int | None = None,
        unit: PrivacyUnit = PrivacyUnit.IMAGE,
        sampling: Sampling | None = None,
        releases: tuple[Release, ...] = (),
        integers: int = 0,
    ) -> Self:
        """The plan of a schedule: q = B/n and T = ⌈epochs·n/B⌉, or `steps`.

        Raises:
            PlanError: If an argument is impossible.
        """
        whole("units", units)
        if not 1 <= batch_size <= units:
            raise PlanError(
                f"batch size {batch_size} is outside 1..{units}",
                why=f"The data set has {units} units.",
                remedy="Choose a smaller batch.",
            )
        if (epochs is None) == (steps is None):
            raise PlanError("give one of epochs and steps")
        chosen = sampling if sampling is not None else PoissonSampling(batch_size / units)
        if not math.isclose(chosen.rate(units) * units, batch_size, rel_tol=1e-9):
            raise PlanError(
                f"batch size {batch_size} disagrees with {chosen.name} sampling, which takes "
                f"{chosen.rate(units) * units:g} of {units} units on average",
                remedy=f"Set the batch size to {chosen.rate(units) * units:g}, or change the sampling.",
            )
        if epochs is not None:
            if not 0 < epochs < math.inf:
                raise PlanError(f"{epochs} epochs is not a positive number")
            # A whole number of steps stays whole: 30·n/B must not become one more by rounding.
            steps = max(1, math.ceil(epochs * units / batch_size * (1 - 1e-12)))
        return cls(
            noise_multiplier,
            chosen.rate(units),
            whole("steps", steps),
            delta,
            units,
            unit,
            chosen,
            releases,
            integers,
        )

    @property
    def expected_batch_size(self) -> float:
        """q·n: the constant by which sums are divided, whatever the realised size."""
        return expected_size(self.sampling, self.units)

    @property
    def gradient_noise_multiplier(self) -> float:
        """Noise multiplier of the gradient sum: above σ when side statistics are released.

        Raises:
            PlanError: If the statistics leave nothing for the gradient.
        """
        return gradient_share(self.noise_multiplier, self.releases)

    def epsilon(
        self, accountant: str = "pld", *, steps: int | None = None, delta: float | None = None
    ) -> float:
        """ε after `steps` (default: all) at `delta` (default: the plan's).

        Args:
            accountant: "pld" (the claim), "rdp" (cross-check), or "gdp" (an approximation, no bound).

        Raises:
            PlanError: If the accountant is unknown, or the number of steps or δ impossible.
        """
        named = accountant_named(accountant)
        count = self._count(steps)
        if count == 0:
            return 0.0
        wanted = self.delta if delta is None else accountants.checked_delta(delta)
        if named is Accountant.PLD:
            return self._claimed(count, wanted)
        args = self.sampling, self.noise_multiplier, count
        if named is Accountant.GDP:
            return accountants.epsilon(*args, wanted, self.units, named)
        return epsilon_besides(
            lambda left: accountants.epsilon(*args, left, self.units, named), wanted, self._apart(count)
        )

    def _claimed(self, steps: int, delta: float, coarse: float = 1.0) -> float:
        """ε by the claim's accountant, discrete noise included."""

        def gaussian(left: float) -> float:
            return accountants.claim(self.sampling, self.noise_multiplier, steps, left, coarse)[0]

        return epsilon_besides(gaussian, delta, self._apart(steps))

    def _apart(self, steps: int) -> float:
        """Total variation between the noise of so many steps and what the accountants take it for."""
        return distance(self.integers * steps) if self.integers else 0.0

    def group_epsilon(self, size: int) -> float:
        """ε for `size` units at once, for example all images of one patient under a guarantee per image."""
        if checked_size(size) == 1:
            return self.epsilon()

        def gaussian(delta: float) -> float:
            return self._group_epsilon(size, delta)

        return epsilon_besides(gaussian, self.delta, self._apart(self.steps))

    def _group_epsilon(self, size: int, delta: float) -> float:
        sigma, steps = self.noise_multiplier, self.steps
        match self.sampling:
            case PoissonSampling(probability):
                event = poisson_group_event(probability, sigma, steps, size)
                return accountants.pld_epsilon(event, delta, grid=1e-3)
            case FullBatch():
                return accountants.claim(self.sampling, sigma / size, steps, delta)[0]
            case _:
                return group_epsilon(accountants.rdp_curve(self.event()), size, delta)

    def event(self, steps: int | None = None) -> DpEvent:
        """The run as a dp-accounting event, for composition in the ledger."""
        return self.sampling.event(self.noise_multiplier, self._count(steps))

    def _count(self, steps: int | None) -> int:
        return self.steps if steps is None else whole("steps", steps, least=0)

    def guarantee(self, steps: int | None = None, *, private: bool = True) -> Guarantee:
        """What was promised, in full.

        Args:
            steps: Steps released so far; default: the whole plan.
            private: False when the randomness came from a seed.
        """
        count = self._count(steps)
        claimed_by = Accountant.PLD
        if count:
            claimed_by = accountants.claim(self.sampling, self.noise_multiplier, count, self.delta)[1]
        # deepee's GDP formula leaves out that replacing a unit moves a sum by 2C.
        others = ["rdp"] if isinstance(self.sampling, FixedSizeSampling) else ["rdp", "gdp"]
        return Guarantee(
            epsilon=self.epsilon(steps=count),
            delta=self.delta,
            unit=self.unit,
            adjacency=self.sampling.adjacency,
            accountant=claimed_by.value,
            sampling=self.sampling.name,
            steps=count,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            units=self.units,
            assumptions=assumptions(
                unit=self.unit,
                units=self.units,
                delta=self.delta,
                divisor=self.expected_batch_size,
                sampling=self.sampling,
                releases=self.releases,
                hardened=self.integers > 0,
            ),
            cross_checks={
                name: self.epsilon(name, steps=count) for name in others if name != claimed_by.value
            },
            private=private,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for records and the ledger."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "delta": self.delta,
            "units": self.units,
            "unit": self.unit.value,
            "sampling": self.sampling.to_dict(),
            "releases": [{"name": r.name, "noise_multiplier": r.noise_multiplier} for r in self.releases],
            "integers": self.integers,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            PlanError: If something is missing or impossible.
        """
        try:
            return cls(
                noise_multiplier=values["noise_multiplier"],
                sampling_rate=values["sampling_rate"],
                steps=values["steps"],
                delta=values["delta"],
                units=values["units"],
                unit=PrivacyUnit(values["unit"]),
                sampling=sampling_from_dict(values["sampling"]),
                releases=tuple(Release(r["name"], r["noise_multiplier"]) for r in values["releases"]),
                # Records of before 0.1 have no such key: their noise was floating-point.
                integers=values.get("integers", 0),
            )
        except KeyError as error:
            raise PlanError(f"the record of a plan lacks {error}") from None


def whole(name: str, value: object, least: int = 1) -> int:
    """A whole number of steps or units; refuses 2.5, True and NaN."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise PlanError(f"{name} is {value!r}", remedy=f"Give a whole number of at least {least}.")
    return int(value)


def _unit(name: str) -> PrivacyUnit:
    try:
        return PrivacyUnit(name)
    except ValueError:
        kinds = ", ".join(PrivacyUnit)
        raise PlanError(f"unknown privacy unit {name!r}", remedy=f"Choose one of: {kinds}.") from None


def _check(plan: PrivacyPlan) -> None:
    """Refuse what no mechanism can have. Comparisons are written so that NaN fails them."""
    if not 0 < plan.noise_multiplier < math.inf:
        raise PlanError(
            f"noise multiplier {plan.noise_multiplier} is not a positive number",
            remedy="For training without privacy set privacy: none.",
        )
    if not 0 < plan.sampling_rate <= 1:
        raise PlanError(
            f"sampling rate {plan.sampling_rate} is outside (0, 1]", remedy="q = batch size / units."
        )
    whole("steps", plan.steps)
    whole("units", plan.units)
    accountants.checked_delta(plan.delta)
    if plan.units > 1 and plan.delta >= 1 / plan.units:
        raise PlanError(
            f"delta {plan.delta:g} is not below 1/n = {1 / plan.units:.3g}",
            why=f"With such a delta, publishing one of the {plan.units} {plan.unit}s in clear would count as"
            " private.",
            remedy=f"Choose at most 1/(10 n) = {0.1 / plan.units:.2g}.",
        )
