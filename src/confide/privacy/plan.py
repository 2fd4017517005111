# SPDX-License-Identifier: Apache-2.0
"""The privacy plan: the one place where sampling, noise, steps and the privacy unit meet.

The sampler, the noise and the accountant are all derived from a plan, so they cannot disagree. A plan is public;
it holds no secret and nothing computed from private data.

*Formal guarantee.* The sequence of T = `steps` privatised sums is (ε, δ)-DP for the plan's unit and the adjacency of its
sampling, with ε = `epsilon()`, if each unit's contribution is bounded by the clip norm C, the noise of each
step has standard deviation `gradient_noise_multiplier`·C, and sums are divided by constants of the plan only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from confide.errors import PlanError
from confide.privacy import accountants
from confide.privacy.accountants import Accountant, accountant_named
from confide.privacy.guarantee import Guarantee
from confide.privacy.schemes import FixedSizeSampling, FullBatch, PoissonSampling, Sampling, expected_size, sampling_from_dict
from confide.privacy.units import PrivacyUnit

__all__ = ["Guarantee", "PrivacyPlan", "Release"]


@dataclass(frozen=True)
class Release:
    """A side statistic released with every step, such as the mean loss.

    Its noise has standard deviation `noise_multiplier` times its own sensitivity. Gradient and statistics of a step are one
    Gaussian mechanism, whose noise multiplier z satisfies 1/z² = 1/z_gradient² + Σ 1/z_statistic².
    """

    name: str
    noise_multiplier: float


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

    def __post_init__(self) -> None:
        _check(self)
        if self.sampling is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "sampling", PoissonSampling(self.sampling_rate))
        object.__setattr__(self, "unit", PrivacyUnit(self.unit))
        rate = self.sampling.rate(self.units)
        if not math.isclose(rate, self.sampling_rate, rel_tol=1e-12):
            raise PlanError(
                f"sampling rate {self.sampling_rate} disagrees with {self.sampling.name} sampling, whose rate is {rate}"
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
    ) -> Self:
        """The plan with the least noise that keeps ε(δ) ≤ `epsilon`, by the claim's accountant.

        Args:
            epsilon: Target ε > 0; never exceeded.
            batch_size: Expected number of units in a batch; q = batch_size / units.
            epochs: Passes over the data: T = ⌈epochs·n/B⌉; or give `steps`.

        Raises:
            PlanError: If an argument is impossible, or no noise reaches the target.
        """
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise PlanError(f"epsilon {epsilon} is not a positive number", remedy="Typical values lie between 0.5 and 10.")
        draft = cls.for_schedule(
            noise_multiplier=1.0,
            delta=delta,
            units=units,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            unit=unit,
            sampling=sampling,
        )

        def spends(sigma: float, grid: float = accountants.GRID) -> float:
            return accountants.epsilon(draft.sampling, sigma, draft.steps, delta, units, Accountant.PLD, grid)

        # A grid ten times coarser finds the neighbourhood in a tenth of the time; it overstates ε, never understates.
        near = accountants.calibrate(lambda sigma: spends(sigma, 10 * accountants.GRID), epsilon, precision=1e-3)
        return replace(draft, noise_multiplier=accountants.calibrate(spends, epsilon, start=near), releases=releases)

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
    ) -> Self:
        """The plan of a schedule: q = B/n and T = ⌈epochs·n/B⌉, or `steps`.

        Raises:
            PlanError: If an argument is impossible.
        """
        if units < 1:
            raise PlanError(f"{units} units", why="A guarantee protects at least one unit.")
        if not 1 <= batch_size <= units:
            raise PlanError(
                f"batch size {batch_size} is outside 1..{units}", why=f"The data set has {units} units.", remedy="Choose a smaller batch."
            )
        if (epochs is None) == (steps is None):
            raise PlanError("give one of epochs and steps")
        if epochs is not None:
            if not (math.isfinite(epochs) and epochs > 0):
                raise PlanError(f"{epochs} epochs is not a positive number")
            # A whole number of steps stays whole: 30·n/B must not become one more by rounding.
            steps = max(1, math.ceil(epochs * units / batch_size - 1e-9))
        assert steps is not None
        chosen = sampling or PoissonSampling(batch_size / units)
        return cls(noise_multiplier, chosen.rate(units), steps, delta, units, unit, chosen, releases)

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
        if not self.releases:
            return self.noise_multiplier
        if len({release.name for release in self.releases}) != len(self.releases):
            raise PlanError("a statistic is released twice in a step")
        if any(not release.noise_multiplier > 0 for release in self.releases):
            raise PlanError("a released statistic has no noise")
        left = self.noise_multiplier**-2 - sum(release.noise_multiplier**-2 for release in self.releases)
        if left <= 0:
            raise PlanError(
                "the released statistics spend the whole budget of a step",
                why=f"The step's noise multiplier is {self.noise_multiplier:g}.",
                remedy="Give the statistics more noise.",
            )
        # Rounded up by one unit in the last place of a double: towards privacy.
        return math.nextafter(left**-0.5, math.inf)

    def epsilon(self, accountant: str = "pld", *, steps: int | None = None, delta: float | None = None) -> float:
        """ε after `steps` (default: all) at `delta` (default: the plan's).

        Args:
            accountant: "pld" (the claim), "rdp" (cross-check), or "gdp" (an approximation, no bound).
        """
        count = self.steps if steps is None else steps
        if count == 0:
            return 0.0
        if count < 0:
            raise PlanError(f"{count} steps")
        return accountants.epsilon(
            self.sampling,
            self.noise_multiplier,
            count,
            self.delta if delta is None else delta,
            self.units,
            accountant_named(accountant),
        )

    def group_epsilon(self, size: int) -> float:
        """ε for `size` units at once, for example all images of one patient under a guarantee per image."""
        if size == 1:
            return self.epsilon()
        sigma, steps = self.noise_multiplier, self.steps
        match self.sampling:
            case PoissonSampling(probability):
                event = accountants.poisson_group_event(probability, sigma, steps, size)
                return accountants.pld_epsilon(event, self.delta, grid=1e-3)
            case FullBatch():
                return accountants.epsilon(self.sampling, sigma / size, steps, self.delta, self.units, Accountant.PLD)
            case _:
                spends: Callable[[float], float] = lambda delta: self.epsilon("rdp", delta=delta)  # noqa: E731
                return accountants.group_epsilon(spends, size, self.delta)

    def event(self, steps: int | None = None) -> Any:
        """The run as a dp-accounting event, for composition in the ledger."""
        return self.sampling.event(self.noise_multiplier, self.steps if steps is None else steps)

    def guarantee(self, steps: int | None = None, *, private: bool = True, hardened: bool = False) -> Guarantee:
        """What was promised, in full.

        Args:
            steps: Steps released so far; default: the whole plan.
            private: False when the randomness came from a seed.
            hardened: Whether integer gradients and discrete noise were used.
        """
        count = self.steps if steps is None else steps
        claim = Accountant.RDP if isinstance(self.sampling, FixedSizeSampling) else Accountant.PLD
        others = [name for name in ("rdp", "gdp") if name != claim.value]
        if isinstance(self.sampling, FixedSizeSampling):
            others.remove("gdp")  # deepee's formula ignores that replacing a unit moves a sum by 2C
        return Guarantee(
            epsilon=self.epsilon(steps=count),
            delta=self.delta,
            unit=self.unit,
            adjacency=self.sampling.adjacency,
            accountant=claim.value,
            sampling=self.sampling.name,
            steps=count,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            units=self.units,
            assumptions=_assumptions(self, hardened),
            cross_checks={name: self.epsilon(name, steps=count) for name in others},
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
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(
            noise_multiplier=values["noise_multiplier"],
            sampling_rate=values["sampling_rate"],
            steps=values["steps"],
            delta=values["delta"],
            units=values["units"],
            unit=PrivacyUnit(values["unit"]),
            sampling=sampling_from_dict(values["sampling"]),
            releases=tuple(Release(r["name"], r["noise_multiplier"]) for r in values["releases"]),
        )


def _check(plan: PrivacyPlan) -> None:
    """Refuse what no mechanism can have. Comparisons are written so that NaN fails them."""
    if not (0 < plan.noise_multiplier < math.inf):
        raise PlanError(
            f"noise multiplier {plan.noise_multiplier} is not a positive number",
            remedy="For training without privacy set privacy: none.",
        )
    if not 0 < plan.sampling_rate <= 1:
        raise PlanError(f"sampling rate {plan.sampling_rate} is outside (0, 1]", remedy="q = batch size / units.")
    if isinstance(plan.steps, bool) or plan.steps != int(plan.steps) or plan.steps < 1:
        raise PlanError(f"{plan.steps} steps", why="A run has at least one step.")
    if isinstance(plan.units, bool) or plan.units != int(plan.units) or plan.units < 1:
        raise PlanError(f"{plan.units} units", why="A guarantee protects at least one unit.")
    if not 0 < plan.delta < 1:
        raise PlanError(f"delta {plan.delta} is outside (0, 1)")
    if plan.units > 1 and plan.delta >= 1 / plan.units:
        raise PlanError(
            f"delta {plan.delta:g} is not below 1/n = {1 / plan.units:.3g}",
            why=f"With such a delta, publishing one of the {plan.units} {plan.unit}s in clear would count as private.",
            remedy=f"Choose at most 1/(10 n) = {0.1 / plan.units:.2g}.",
        )


def _assumptions(plan: PrivacyPlan, hardened: bool) -> tuple[str, ...]:
    """What the guarantee rests on; each is said wherever the guarantee is."""
    unit = plan.unit.value
    stated = [
        f"the number of {unit}s, n = {plan.units}, is public; batches are divided by the constant {plan.expected_batch_size:g}",
        f"one {unit}'s rows are its own: no other {unit} in the data shows the same person"
        if plan.unit is PrivacyUnit.PATIENT
        else f"the guarantee is per {unit}: a patient with several {unit}s is protected less",
        "validation and test images are not protected by it",
        "choices made by looking at earlier runs on the same data are not covered; the ledger counts those runs",
        "gradients are integers on a grid and the noise is discrete Gaussian"
        if hardened
        else "noise is drawn in floating point: attacks on the last bits of released numbers are not excluded",
    ]
    if plan.delta > 0.1 / plan.units:
        stated.append(f"delta {plan.delta:g} is above 1/(10 n) = {0.1 / plan.units:.2g}: smaller would be better")
    if plan.releases:
        names = ", ".join(f"{r.name} (noise multiplier {r.noise_multiplier:.4g})" for r in plan.releases)
        stated.append(f"every step also releases, within the same budget: {names}")
    return tuple(stated)
