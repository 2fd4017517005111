# SPDX-License-Identifier: Apache-2.0
"""`audit_run`: the claim of a training against lower bounds that attacks on it establish.

| bound | attacker | rests on |
|---|---|---|
| noise | sees single steps, knows who is in them | Gaussian noise, sampling as claimed |
| sampling | sees who is in a step | independent coins, noise as claimed |
| run, any mechanism | sees every noisy gradient of one run | nothing but (ε, δ)-DP |
| run, the plan's curve | the same | the shape of the plan's own trade-off curve |
| finished model | sees the finished model only | nothing but (ε, δ)-DP |

No audit proves a claim. It refutes it, or is consistent with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from torch import Tensor

from confide.audit.bounds import one_run_epsilon_lower_bound, plan_lower_bound
from confide.audit.rehearsal import Rehearsal, Subject, rehearse, rehearse_black_box
from confide.audit.stepwise import mechanism_for_audit, sampling_epsilon, step_audit
from confide.errors import InputError
from confide.privacy.guarantee import Guarantee, delta_text, rounded_up
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FixedSizeSampling, PoissonSampling
from confide.training.mechanism import with_releases
from confide.training.step import Charge

Progress = Callable[[int, int], None]
# Canaries a step of the step audit.
_DIRECTIONS = 2000


def rounded_down(value: float, digits: int = 2) -> str:
    """A lower bound as text, never above it: 2.999 -> '2.99'."""
    if not math.isfinite(value):
        return "∞"
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


@dataclass(frozen=True)
class LowerBound:
    """One lower bound on ε and the claim that it is held against.

    Attributes:
        method: Short name.
        epsilon: The bound.
        steps: Training steps that it speaks of.
        claim: ε of the claim for so many steps.
        confidence: Of this bound alone.
        rests_on: What it assumes.
    """

    method: str
    epsilon: float
    steps: int
    claim: float
    confidence: float
    rests_on: str

    @property
    def refutes(self) -> bool:
        """Whether the claim is false, with the stated confidence."""
        return self.epsilon > self.claim

    def to_dict(self) -> dict[str, Any]:
        """Everything, for records."""
        return {
            "method": self.method,
            "epsilon": self.epsilon,
            "steps": self.steps,
            "claim": self.claim,
            "confidence": self.confidence,
            "rests_on": self.rests_on,
            "refutes": self.refutes,
        }


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        claim: Of the whole run.
        bounds: All lower bounds.
        confidence: All bounds hold together with this probability.
        canaries: Of each attack.
        steps: Training steps taken under attack.
    """

    claim: Guarantee
    bounds: tuple[LowerBound, ...]
    confidence: float
    canaries: int
    steps: int

    @property
    def refuted(self) -> bool:
        """Whether any bound lies above its claim."""
        return any(bound.refutes for bound in self.bounds)

    @property
    def best(self) -> LowerBound:
        """The bound that says most: the first that refutes, else the highest."""
        return max(self.bounds, key=lambda bound: (bound.refutes, bound.epsilon))

    @property
    def verdict(self) -> str:
        """The result in words. An audit never proves a claim."""
        claim = self.claim
        seeded = "" if claim.private else " The run itself was seeded: it protects nobody."
        promised = (
            f"the claim of ε = {rounded_up(claim.epsilon)} at δ = {delta_text(claim.delta)} per "
            f"{claim.unit.value} ({claim.accountant.upper()}, {claim.sampling} sampling)"
        )
        best, level = self.best, f"{100 * self.confidence:g}% confidence"
        if best.refutes:
            return (
                f"REFUTED: {promised} is false. With {level}, ε of {best.steps} steps is at least "
                f"{rounded_down(best.epsilon)}, and {rounded_up(best.claim)} was claimed for them "
                f"({best.method}). Do not release this model.{seeded}"
            )
        return (
            f"Consistent with {promised}: with {level}, the attacks show that ε is at least "
            f"{rounded_down(best.epsilon)} ({best.method}), which the claim allows. That does not prove the "
            f"claim: a stronger attack might show more.{seeded}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "verdict": self.verdict,
            "refuted": self.refuted,
            "claim": self.claim.to_dict(),
            "epsilon_lower_bound": self.best.epsilon,
            "confidence": self.confidence,
            "canaries": self.canaries,
            "steps": self.steps,
            "bounds": [bound.to_dict() for bound in self.bounds],
        }


def audit_run(
    subject: Subject,
    *,
    canaries: int = 1000,
    steps: int | None = None,
    confidence: float = 0.95,
    black_box: tuple[Tensor, Tensor] | None = None,
    observations: int = 200_000,
    claim: Guarantee | None = None,
    charge: Charge | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Attack a training in every way at hand.

    Args:
        subject: The training.
        canaries: Of each attack on a run.
        steps: Steps of the training under attack; default: all. The bounds on noise and sampling are
            extrapolated to the whole plan, those on the run hold for so many steps and are held against the
            claim for so many.
        confidence: All bounds together are right with this probability. Those on noise and sampling see most
            and get a twentieth of the error each; the others share the rest evenly.
        black_box: Images and wrong labels of input canaries; default: that attack is left out.
        observations: Present-or-absent observations of the step audit.
        charge: Charges the steps of the attack on a finished model; the other attacks spend nothing.
        claim: What was published about the whole run; default: what the plan guarantees.
        seed: Of the coins; default: the operating system's entropy.

    Raises:
        InputError: If the arguments do not fit each other.
    """
    if not 0.5 < confidence < 1:
        raise InputError(f"confidence {confidence} is outside (0.5, 1)")
    plan = subject.plan
    planned = _planned(plan, black_box is not None)
    levels = _levels(planned, 1 - confidence)
    claim = claim or plan.guarantee()
    bounds = [noise_bound(subject, levels["noise"], observations, seed)]
    seen = rehearse(subject, canaries=canaries, steps=steps, seed=seed, progress=progress)
    bounds += _run_bounds(seen, plan, levels)
    if black_box is not None:
        outside = rehearse_black_box(
            subject, *black_box, steps=steps, seed=seed, charge=charge, progress=progress
        )
        bounds.append(_any_mechanism(outside, levels["finished model"], "finished model"))
    # Whatever the plan would allow, a published ε must hold; fewer steps cannot leak more than all.
    held = tuple(replace(bound, claim=min(bound.claim, claim.epsilon)) for bound in bounds)
    return AuditResult(claim, held, confidence, canaries, seen.plan.steps)


def _planned(plan: PrivacyPlan, black_box: bool) -> tuple[str, ...]:
    """Which bounds an audit of this plan can establish; decided before anything is looked at."""
    names = ["noise", "run, any mechanism"]
    names += ["sampling"] if isinstance(plan.sampling, PoissonSampling) else []
    names += [] if isinstance(plan.sampling, FixedSizeSampling) else ["run, the plan's curve"]
    names += ["finished model"] if black_box else []
    return tuple(names)


def _levels(planned: tuple[str, ...], error: float) -> dict[str, float]:
    """The confidence of each bound, so that all hold together but for a probability of `error`."""
    sharp = [name for name in planned if name in ("noise", "sampling")]
    rest = len(planned) - len(sharp)
    return {name: 1 - error * (0.05 if name in sharp else (1 - 0.05 * len(sharp)) / rest) for name in planned}


def noise_bound(
    subject: Subject, confidence: float, observations: int = 200_000, seed: int | None = None
) -> LowerBound:
    """The step audit of the mechanism that would train the subject."""
    plan = with_releases(subject.plan, subject.bounded, loss=subject.release_loss)
    mechanism = mechanism_for_audit(plan, subject.bounded, _DIRECTIONS)
    counts = step_audit(
        mechanism, steps=max(1, observations // _DIRECTIONS), directions=_DIRECTIONS, seed=seed
    )
    sigma = counts.noise_multiplier(confidence)
    return LowerBound(
        "noise",
        counts.epsilon(subject.plan, confidence),
        plan.steps,
        plan.epsilon(),
        confidence,
        f"Gaussian noise, whose multiplier is then at most {sigma:.4g} (claimed: "
        f"{plan.gradient_noise_multiplier:.4g}), and sampling as claimed",
    )


def _run_bounds(seen: Rehearsal, plan: PrivacyPlan, levels: dict[str, float]) -> list[LowerBound]:
    bounds: list[LowerBound] = []
    trials = int(seen.included.sum()) * seen.plan.steps
    if "sampling" in levels:
        bounds.append(
            LowerBound(
                "sampling",
                sampling_epsilon(plan, seen.drawn, trials, levels["sampling"]),
                plan.steps,
                plan.epsilon(),
                levels["sampling"],
                f"independent coins, of which {seen.drawn} of {trials} fell (claimed rate: "
                f"{plan.sampling_rate:.4g}), and noise as claimed",
            )
        )
    bounds.append(_any_mechanism(seen, levels["run, any mechanism"], "run, any mechanism"))
    if "run, the plan's curve" in levels:
        own = levels["run, the plan's curve"]
        bounds.append(
            LowerBound(
                "run, the plan's curve",
                plan_lower_bound(seen.scores, seen.included, seen.plan, confidence=own),
                seen.plan.steps,
                seen.plan.epsilon(),
                own,
                "a trade-off curve of the plan's own family",
            )
        )
    return bounds


def _any_mechanism(seen: Rehearsal, confidence: float, name: str) -> LowerBound:
    bound = one_run_epsilon_lower_bound(
        seen.scores, seen.included, delta=seen.plan.delta, confidence=confidence
    )
    return LowerBound(
        name, bound, seen.plan.steps, seen.plan.epsilon(), confidence, "nothing but (ε, δ)-DP of each canary"
    )
