# SPDX-License-Identifier: Apache-2.0
"""A guarantee: ε with everything that it depends on. ε is never a bare number in a result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any, Self

from confide.privacy.units import Adjacency, PrivacyUnit


def rounded_up(value: float, digits: int = 2) -> str:
    """A number as text with so many decimals, never below the number: 2.991 -> '3.00'."""
    if not math.isfinite(value):
        return "∞"
    # What is exact up to float noise is not pushed up by it: 3.0000000003 is 3.00, by less than the accountant's slack.
    exact = Decimal(float(value)) * (1 - Decimal("2e-9"))
    return str(exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


@dataclass(frozen=True)
class Guarantee:
    """What was promised, to whom, and what it rests on.

    Attributes:
        epsilon: Upper bound on ε at `delta`, by `accountant`.
        cross_checks: ε by other accountants; "gdp" is an approximation and no bound.
        private: False when the randomness came from a known seed: then nothing is guaranteed.
    """

    epsilon: float
    delta: float
    unit: PrivacyUnit
    adjacency: Adjacency
    accountant: str
    sampling: str
    steps: int
    noise_multiplier: float
    sampling_rate: float
    units: int
    assumptions: tuple[str, ...] = ()
    cross_checks: dict[str, float] = field(default_factory=dict)
    private: bool = True

    def __str__(self) -> str:
        head = f"(ε = {rounded_up(self.epsilon)}, δ = {self.delta:g})-DP per {self.unit.value}"
        if not self.private:
            head = f"not private: seeded. With secret randomness it would have been {head}"
        lines = [
            f"{head}; neighbours: {self.adjacency.value}; accountant: {self.accountant.upper()}; "
            f"sampling: {self.sampling}, q = {self.sampling_rate:.6g}; noise multiplier σ = {self.noise_multiplier:.6g}; "
            f"steps T = {self.steps}; n = {self.units}.",
        ]
        if self.cross_checks:
            others = ", ".join(
                f"{name.upper()} {rounded_up(value)}{' (approximation, no bound)' if name == 'gdp' else ''}"
                for name, value in self.cross_checks.items()
            )
            lines.append(f"Cross-check: {others}.")
        if self.assumptions:
            lines.append(f"Rests on: {'; '.join(self.assumptions)}.")
        return " ".join(lines)

    def posterior(self, prior: float) -> float:
        """Highest probability that an observer can reach of a yes-or-no fact about one unit's presence.

        With likelihood ratios bounded by e^ε except on outcomes of probability δ, the posterior of an
        observer with this prior is at most p·e^ε/(1 − p + p·e^ε), plus δ in total probability.
        """
        if not self.private:
            return 1.0
        odds = prior / (1 - prior) * math.exp(min(self.epsilon, 700.0))
        return min(1.0, odds / (1 + odds) + self.delta)

    def best_guess(self) -> float:
        """Highest share of correct answers when guessing whether one unit was in the training data, with even odds.

        (1 + TV)/2 with total variation at most (e^ε − 1 + 2δ)/(e^ε + 1): Kairouz, Oh, Viswanath (2015), arXiv:1311.0776.
        """
        if not self.private:
            return 1.0
        grown = math.exp(-min(self.epsilon, 700.0))
        variation = (1 - grown + 2 * self.delta * grown) / (1 + grown)
        return min(1.0, 0.5 + variation / 2)

    def in_words(self) -> str:
        """The guarantee for readers who are no mathematicians, such as a patient board."""
        unit = self.unit.value
        if not self.private:
            return (
                "This model protects nobody: its randomness came from a known seed, so that the experiment can be repeated. "
                "It must not be released."
            )
        whom = {
            PrivacyUnit.PATIENT: "one patient, with all of the patient's images,",
            PrivacyUnit.IMAGE: "one single image",
            PrivacyUnit.LESION: "one lesion, with all of its images,",
            PrivacyUnit.TILE: "one tissue sample, with all of its images,",
        }[self.unit]
        change = "been left out" if self.adjacency is Adjacency.ADD_OR_REMOVE_ONE else "been another one"
        less = (
            ""
            if self.unit is PrivacyUnit.PATIENT
            else f" A patient with several {unit}s in the data is protected less than that."
        )
        return (
            f"The model would have come out almost the same if {whom} had {change}. "
            f"Somebody who knows everything else, sees the finished model and guesses whether a certain {unit} was used for training "
            f"can be right at most {_percent(self.best_guess())} of the time, where tossing a coin is right 50% of the time. "
            f"Who took it for unlikely, say 1 in 100, does not become surer than {_percent(self.posterior(0.01))}, "
            f"except with a chance of 1 in {math.floor(1 / self.delta):,}. "
            f"This holds whatever else is or becomes known about the {unit}, and cannot be undone by better computers.{less}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for `run.json`, with both texts."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "unit": self.unit.value,
            "adjacency": self.adjacency.value,
            "accountant": self.accountant,
            "sampling": self.sampling,
            "steps": self.steps,
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "units": self.units,
            "assumptions": list(self.assumptions),
            "cross_checks": dict(self.cross_checks),
            "private": self.private,
            "text": str(self),
            "in_words": self.in_words(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; the texts are made anew."""
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        known["unit"] = PrivacyUnit(known["unit"])
        known["adjacency"] = Adjacency(known["adjacency"])
        known["assumptions"] = tuple(known["assumptions"])
        return cls(**known)


def _percent(share: float) -> str:
    """A share as a percentage with one decimal, rounded up."""
    return f"{rounded_up(share * 100, 1)}%"
