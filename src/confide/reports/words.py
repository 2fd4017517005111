# SPDX-License-Identifier: Apache-2.0
"""The guarantee for people: what is promised, what that rests on, and what it does not cover.

Everything here is a sentence about a run that its record supports; nothing is promised that the record does
not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from confide.experiments.record import Run, RunRecord
from confide.privacy.guarantee import Guarantee, rounded_up
from confide.privacy.units import Adjacency, PrivacyUnit
from confide.reports.numbers import listed, scientific

ONE = {
    PrivacyUnit.IMAGE: "one image",
    PrivacyUnit.PATIENT: "all images of one patient",
    PrivacyUnit.LESION: "all images of one lesion",
    PrivacyUnit.TILE: "one image tile",
}
MANY = {
    PrivacyUnit.IMAGE: "images",
    PrivacyUnit.PATIENT: "patients",
    PrivacyUnit.LESION: "lesions",
    PrivacyUnit.TILE: "tiles",
}

# What an attacker knows, and what they ask.
ATTACKER = {
    PrivacyUnit.IMAGE: {"others": "every other image", "one": "one person’s image was"},
    PrivacyUnit.PATIENT: {"others": "all images of every other patient", "one": "one patient’s images were"},
    PrivacyUnit.LESION: {"others": "every other lesion", "one": "one person’s lesion was"},
    PrivacyUnit.TILE: {"others": "every other tile", "one": "one person’s tile was"},
}


@dataclass(frozen=True)
class Point:
    """One item of a list: what, and why it matters."""

    title: str
    text: str


@dataclass(frozen=True)
class Claim:
    """What the page may claim about a run.

    Attributes:
        guarantee: What the whole plan guarantees.
        epsilon: ε of what was really released until the run ended.
        delta: δ of the same.
        complete: Whether `epsilon` is final; False for a run that was killed, whose ledger knows more.
        private: False for a run with a research seed: its noise can be computed again.
    """

    guarantee: Guarantee
    epsilon: float
    delta: float
    complete: bool
    private: bool

    @property
    def symbols(self) -> str:
        """For example "(3.00, 10⁻⁵)"."""
        return f"({rounded_up(self.epsilon)}, {scientific(self.delta)})"


def claim_of(run: Run) -> Claim | None:
    """What may be claimed; None for a run without DP."""
    record = run.record
    if record.guarantee is None:
        return None
    guarantee = Guarantee.from_dict(record.guarantee)
    private = guarantee.private and record.seed_policy == "operating system"
    if record.spent is not None and record.status != "running":
        return Claim(guarantee, record.spent.epsilon, record.spent.delta, True, private)
    complete = record.status == "finished"
    # A killed run: steps may have been released after the last line, so the plan's ε is the safe statement.
    return Claim(guarantee, guarantee.epsilon, guarantee.delta, complete, private)


def rests_on(record: RunRecord, claim: Claim) -> list[Point]:
    """Everything that has to be true for the guarantee to be true."""
    points = [Point("", f"{text[0].upper()}{text[1:]}.") for text in claim.guarantee.assumptions]
    # Most guarantees say so among their assumptions already.
    if claim.private and not any("random key" in text for text in claim.guarantee.assumptions):
        points.append(
            Point(
                "Secret randomness",
                "The noise and the choice of every batch came from a key that the operating system drew for "
                "this run and that was never written down.",
            )
        )
    unit = MANY[record.data.unit]
    public = [text for text in record.declared_public if text]
    points.append(
        Point(
            "Declared public",
            f"These facts were taken as known to everybody and are not protected: {listed(public)}."
            if public
            else f"The record declares nothing public but the number of {unit} and the settings.",
        )
    )
    return points


def not_covered(run: Run, claim: Claim) -> list[Point]:
    """What a reader might think is promised, and is not."""
    record = run.record
    unit = record.data.unit
    points: list[Point] = []
    if unit is not PrivacyUnit.PATIENT:
        twice = rounded_up(2 * claim.epsilon)
        points.append(
            Point(
                f"A person with several {MANY[unit]}",
                f"The promise is about {ONE[unit]}. For somebody with two of them the privacy loss is about "
                f"twice as large (ε near {twice} or above), and it grows with each further one.",
            )
        )
    test = record.data.rows.get("test", 0)
    points += [
        Point(
            "The images used for testing",
            f"The accuracy figures, tables and sample images on this page come from {test:,} test images "
            "without any noise. Whoever is in the test or validation set is not protected by the guarantee.",
        ),
        Point(
            "What is true of everybody",
            "If the model learns that a pattern means pneumonia, that also says something about people who "
            "never took part. The guarantee limits what taking part adds, not what medicine learns.",
        ),
        Point(
            "Other models from the same data",
            "Every further training run on these data, failed ones and trials of settings included, adds its "
            "own privacy loss. The ledger of the data set holds the sum (confide ledger show).",
        ),
        Point(
            "The hospital's computers",
            "The guarantee is about the published model. It does not guard the original images, the training "
            "machine or its memory; that takes access control.",
        ),
        Point(
            "Being right",
            "Privacy says nothing about correctness. This page is no approval for use on patients.",
        ),
    ]
    return points


def promise(run: Run, claim: Claim, people: int | None) -> list[str]:
    """The guarantee for readers who are no mathematicians.

    Args:
        run: The run.
        claim: What may be claimed.
        people: Of a hundred training members, the most an attacker can recognise; None where nothing is
        guaranteed.
    """
    unit = run.record.data.unit
    one, change = ONE[unit], claim.guarantee.adjacency
    left_out = "been left out of training" if change is Adjacency.ADD_OR_REMOVE_ONE else "been another one"
    if people is None:
        return ["This model protects nobody: its noise can be taken away again by whoever knows the seed."]
    if people <= 10:
        lead = f"This model would have come out almost the same if {one} had {left_out}."
    elif people <= 50:
        lead = f"This model would have come out similar, though not the same, if {one} had {left_out}."
    else:
        lead = (
            f"The training limits how much {one} can have changed this model, but the limit is wide: a "
            "determined attacker may recognise most of those who took part."
        )
    return [
        lead,
        (
            f"That was built into the training: {one} could move the model by a fixed amount at most, and "
            "chance was added to everything that was learned. So there is a limit to what anybody can find "
            "out about one person from the model, with any method and any other knowledge, now and later. "
            "The limit is a number, ε. At 0 the model would tell nothing about anybody; here it is "
            f"{rounded_up(claim.epsilon)}."
        ),
    ]


def adjacency_words(claim: Claim, unit: PrivacyUnit) -> str:
    """What two neighbouring data sets differ in."""
    one = ONE[unit]
    if claim.guarantee.adjacency is Adjacency.ADD_OR_REMOVE_ONE:
        return f"differ in {one}, there or not there"
    return f"differ in {one}, replaced by another"
