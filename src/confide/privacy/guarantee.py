# SPDX-License-Identifier: Apache-2.0
"""A guarantee: ε with everything that it depends on. ε is never a bare number in a result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any, Self

from confide.privacy.units import Adjacency, PrivacyUnit

# How far the exceptional event of `posterior` is kept apart from ε: odds grow by this factor more.
_MARGIN = 1.1
# Above this ε an attacker may be right more than 99 % of the time.
_WEAK = 5.0


def rounded_up(value: float, digits: int = 2) -> str:
    """A number as text with so many decimals, never below the number: 2.991 -> '3.00'."""
    if not math.isfinite(value):
        return "∞"
    return str(Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


def delta_text(delta: float) -> str:
    """δ with at most six significant digits, never below δ: 1e-05, 1.23457e-05.

    >>> delta_text(1e-5), delta_text(1.2345612e-5)
    ('1e-05', '1.23457e-05')
    """
    # The shortest text of a double is taken as what was meant; 1e-5 is not 1.00001e-5.
    exact = Decimal(repr(float(delta)))
    if exact.is_zero():
        return "0"
    place = Decimal(1).scaleb(exact.adjusted() - 5)
    return f"{float(exact.quantize(place, rounding=ROUND_CEILING)):g}"


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
    cross_checks: dict[str, float] = field(default_factory=dict[str, float])
    private: bool = True

    def __str__(self) -> str:
        head = f"(ε = {rounded_up(self.epsilon)}, δ = {delta_text(self.delta)})-DP per {self.unit.value}"
        if not self.private:
            head = f"not private: seeded. With secret randomness it would have been {head}"
        facts = (
            f"neighbours: {self.adjacency.value}; accountant: {self.accountant.upper()}; "
            f"sampling: {self.sampling}, q = {self.sampling_rate:.6g}; "
            f"noise multiplier σ = {self.noise_multiplier:.6g}; steps T = {self.steps}; n = {self.units}."
        )
        lines = [f"{head}; {facts}"]
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
        """Highest probability that an observer can give to one unit's presence, having started from `prior`.

        The odds grow by at most 1.1·e^ε, except with a probability of at most `exception`. ((ε, δ)-DP does
        not say that they grow by at most e^ε except with probability δ. It says E[1 − e^(ε−L)]₊ ≤ δ of the
        loss L, from which P[L > ε + log 1.1] ≤ δ/(1 − 1/1.1) follows by Markov's inequality.)
        """
        if not self.private or not math.isfinite(self.epsilon):
            return 1.0
        odds = prior / (1 - prior) * _MARGIN * math.exp(min(self.epsilon, 700.0))
        return min(1.0, odds / (1 + odds))

    @property
    def exception(self) -> float:
        """Probability of the outcomes that `posterior` does not cover: δ/(1 − 1/1.1)."""
        return min(1.0, self.delta / (1 - 1 / _MARGIN))

    def best_guess(self) -> float:
        """Highest share of correct answers when guessing a unit's presence from even odds.

        (1 + TV)/2, total variation being at most (e^ε − 1 + 2δ)/(e^ε + 1): Kairouz, Oh, Viswanath (2015),
        arXiv:1311.0776.
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
                "This model protects nobody: its randomness came from a known seed (not private: seeded), so"
                " that the experiment can be repeated. It must not be released."
            )
        if not math.isfinite(self.epsilon):
            return "This model protects nobody: what it reveals has no bound. It must not be released."
        whom = {
            PrivacyUnit.PATIENT: "one patient, with all of the patient's images,",
            PrivacyUnit.IMAGE: "one single image",
            PrivacyUnit.LESION: "one lesion, with all of its images,",
            PrivacyUnit.TILE: "one tissue sample, with all of its images,",
        }[self.unit]
        added = self.adjacency is Adjacency.ADD_OR_REMOVE_ONE
        change = "been left out" if added else "been exchanged for another"
        asked = (
            f"whether a certain {unit} was used for training" if added else f"which of two {unit}s was used"
        )
        guess, surer = _percent(self.best_guess()), _percent(self.posterior(0.01))
        weak = " That is little protection." if self.epsilon > _WEAK else ""
        chance = f"1 in {math.floor(1 / self.exception):,}"
        sentences = [
            f"The model would have come out almost the same if {whom} had {change}.{weak}",
            "Somebody who knows everything else, sees the finished model and every step of its training, and",
            f"guesses {asked} can be right at most {guess} of the time;",
            "tossing a coin is right 50% of the time.",
            f"Who thought it unlikely before, say 1 in 100, can become no surer than {surer},",
            f"except with a chance of at most {chance}.",
            f"This holds whatever else is or becomes known about the {unit},",
            "and better computers cannot undo it.",
            "It does not hide what is true of people in general: if the model shows how a disease looks,",
            "that can be applied to anybody, also to people who never took part.",
        ]
        if self.unit is not PrivacyUnit.PATIENT:
            sentences.append(f"A patient with several {unit}s in the data is protected less than that.")
        return " ".join(sentences)

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
