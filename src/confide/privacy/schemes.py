# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false
"""How privacy units enter a batch. Each scheme reports its own accounting event and its own adjacency.

| scheme | adjacency | amplification | accountants |
|---|---|---|---|
| `PoissonSampling` | add-or-remove-one | yes | PLD, RDP, GDP |
| `FixedSizeSampling` | replace-one (sensitivity 2C) | yes, weaker | RDP |
| `FullBatch` | add-or-remove-one | none | PLD, RDP, GDP |
| `BallsInBins` | – | – | refused: dp-accounting 0.6 has no event for it |

Shuffling is no scheme: it has no amplification that an accountant of ours could state, so it serves
non-private runs only.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from confide.errors import PlanError
from confide.privacy.units import Adjacency

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Sampling(ABC):
    """A sampling scheme; frozen, and complete: nothing else decides who is in a batch."""

    name: ClassVar[str]
    adjacency: ClassVar[Adjacency]

    @abstractmethod
    def event(self, noise_multiplier: float, steps: int) -> DpEvent:
        """What T steps of a Gaussian mechanism with noise σ·C under this scheme are to an accountant."""

    @abstractmethod
    def rate(self, units: int) -> float:
        """Probability that a unit is in a batch, of n units."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Name and parameters, for records."""


@dataclass(frozen=True)
class PoissonSampling(Sampling):
    """Each unit is in each batch with probability q, independently; a batch may be empty."""

    probability: float

    name: ClassVar[str] = "poisson"
    adjacency: ClassVar[Adjacency] = Adjacency.ADD_OR_REMOVE_ONE

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:  # also refuses NaN
            raise PlanError(f"sampling rate {self.probability} is outside (0, 1]")

    def event(self, noise_multiplier: float, steps: int) -> DpEvent:
        """T-fold Poisson-subsampled Gaussian."""
        import dp_accounting as dpa

        one = dpa.PoissonSampledDpEvent(self.probability, dpa.GaussianDpEvent(noise_multiplier))
        return dpa.SelfComposedDpEvent(one, steps)

    def rate(self, units: int) -> float:
        """q."""
        return self.probability

    def to_dict(self) -> dict[str, Any]:
        """Name and q."""
        return {"name": self.name, "probability": self.probability}


@dataclass(frozen=True)
class FixedSizeSampling(Sampling):
    """A uniformly random subset of exactly `size` of `units` units in each batch (deepee's loader).

    n is public here and neighbours differ by replacing one unit, which changes a sum of clipped gradients by
    up
    to 2C: noise σ·C is a Gaussian mechanism of noise multiplier σ/2. Wang, Balle, Kasiviswanathan (2019),
    arXiv:1808.00087.
    """

    size: int
    units: int

    name: ClassVar[str] = "fixed-size"
    adjacency: ClassVar[Adjacency] = Adjacency.REPLACE_ONE

    def __post_init__(self) -> None:
        if not (_whole(self.size) and _whole(self.units) and 1 <= self.size <= self.units):
            raise PlanError(
                f"a batch of {self.size} units cannot be drawn from {self.units}",
                remedy="Choose a size between 1 and the number of units.",
            )

    def event(self, noise_multiplier: float, steps: int) -> DpEvent:
        """T-fold Gaussian on a subset drawn without replacement, with sensitivity 2C."""
        import dp_accounting as dpa

        gaussian = dpa.GaussianDpEvent(noise_multiplier / 2)
        return dpa.SelfComposedDpEvent(
            dpa.SampledWithoutReplacementDpEvent(self.units, self.size, gaussian), steps
        )

    def rate(self, units: int) -> float:
        """size / n; refuses another n than the scheme was made for."""
        if units != self.units:
            raise PlanError(f"fixed-size sampling was made for {self.units} units, the plan says {units}")
        return self.size / self.units

    def to_dict(self) -> dict[str, Any]:
        """Name, size and n."""
        return {"name": self.name, "size": self.size, "units": self.units}


@dataclass(frozen=True)
class FullBatch(Sampling):
    """Every unit in every batch: no amplification."""

    name: ClassVar[str] = "full-batch"
    adjacency: ClassVar[Adjacency] = Adjacency.ADD_OR_REMOVE_ONE

    def event(self, noise_multiplier: float, steps: int) -> DpEvent:
        """T Gaussians of multiplier σ are one of σ/√T; composed that way exactly by the accountants."""
        import dp_accounting as dpa

        return dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(noise_multiplier), steps)

    def rate(self, units: int) -> float:
        """1."""
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        """The name."""
        return {"name": self.name}


def sampling_from_dict(values: dict[str, Any]) -> Sampling:
    """The inverse of `Sampling.to_dict`.

    Raises:
        PlanError: If the scheme is unknown, or cannot be accounted for.
    """
    match values:
        case {"name": "poisson", "probability": probability}:
            return PoissonSampling(float(probability))
        case {"name": "fixed-size", "size": size, "units": units}:
            return FixedSizeSampling(int(size), int(units))
        case {"name": "full-batch"}:
            return FullBatch()
        case {"name": "balls-in-bins"}:
            BallsInBins(int(values.get("bins", 1)))
        case _:
            pass
    names = [scheme.name for scheme in (PoissonSampling, FixedSizeSampling, FullBatch)]
    near = difflib.get_close_matches(str(values.get("name")), names, n=1, cutoff=0.0)[0]
    raise PlanError(
        f"unknown sampling {values.get('name')!r}; the nearest is {near!r}",
        why="Shuffled batches have no amplification that could be accounted for."
        if values.get("name") == "shuffle"
        else "",
        remedy=f"Choose one of: {', '.join(names)}.",
    )


class BallsInBins:
    """Each unit in exactly one of `bins` batches of a pass, independently: named, and refused.

    Raises:
        PlanError: Always.
    """

    name: ClassVar[str] = "balls-in-bins"

    def __init__(self, bins: int) -> None:
        raise PlanError(
            f"balls-in-bins sampling ({bins} bins) is not offered",
            why="dp-accounting 0.6 has no event for it: the published bound (Chua et al. 2024,"
            " arXiv:2412.16802) is a Monte-Carlo estimate, so no ε could be stated that certainly holds.",
            remedy="Use poisson.",
        )


def expected_size(sampling: Sampling, units: int) -> float:
    """Expected number of units in a batch, a constant of the plan."""
    size = sampling.rate(units) * units
    # n·(B/n) may miss B by a rounding error; the divisor is the whole number that was meant.
    return float(round(size)) if math.isclose(size, round(size), rel_tol=1e-12) else size
