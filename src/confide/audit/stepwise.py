# SPDX-License-Identifier: Apache-2.0
"""The step audit: how much noise does the mechanism really add?

In every step canaries C·e_j are put into half of the directions, by fair coins, and looked for in what the
mechanism gives out: present if ⟨g̃, e_j⟩ is above half a canary. Error rates give the separation μ of the two
cases, and σ_eff = 1/μ the noise that explains it. Nasr et al. (2023), arXiv:2302.07956.

Sharper than any attack on a whole run, because every step of every direction is an observation. In return it
is *parametric*: it takes the noise to be Gaussian and the sampling to be as claimed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import beta

from confide.audit.canaries import BANK, canaried_clipping, canary_length, canary_share
from confide.errors import InputError
from confide.mechanisms.clipping import Clipping, PerLayerClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import PoissonSampling
from confide.training.contribution import Contribution
from confide.training.mechanism import PrivateMechanism

# So that an endless budget of observations cannot make μ infinite.
_LEAST = 1e-12


@dataclass(frozen=True)
class StepCounts:
    """Errors of the attacker who looks at single steps.

    Attributes:
        false_alarms: Absent canaries that were taken to be present, of `absent`.
        misses: Present canaries that were taken to be absent, of `present`.
        share: A canary's length over the sensitivity; 1 but for per-layer clipping.
    """

    false_alarms: int
    absent: int
    misses: int
    present: int
    share: float = 1.0

    def mu(self, confidence: float = 0.95) -> float:
        """Lower bound on the separation, a canary over the noise's standard deviation; at least 0.

        Each error rate gets half of the error probability, by the one-sided bound of Clopper & Pearson
        (1934).
        """
        half = (1 - confidence) / 2
        alarms = clopper_pearson_upper(self.false_alarms, self.absent, half)
        misses = clopper_pearson_upper(self.misses, self.present, half)
        return max(0.0, -float(ndtri(alarms)) - float(ndtri(misses))) / self.share

    def noise_multiplier(self, confidence: float = 0.95) -> float:
        """Upper bound σ_eff on the noise multiplier; infinite if nothing was seen."""
        mu = self.mu(confidence)
        return 1 / mu if mu > _LEAST else np.inf

    def epsilon(self, plan: PrivacyPlan, confidence: float = 0.95) -> float:
        """Lower bound on ε of the plan's sampling and steps with the noise that was found."""
        sigma = self.noise_multiplier(confidence)
        # Above 1000 the noise drowns everything; ε would round to zero.
        return replace(plan, noise_multiplier=float(sigma), releases=()).epsilon() if sigma < 1e3 else 0.0


def clopper_pearson_upper(successes: int, trials: int, alpha: float) -> float:
    """The probability under which so few successes have a probability of α; 1 if all succeeded."""
    if not 0 <= successes <= trials or trials < 1:
        raise InputError(f"{successes} of {trials} observations")
    return float(beta.ppf(1 - alpha, successes + 1, trials - successes)) if successes < trials else 1.0


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """The mirror image of `clopper_pearson_upper`."""
    return 1 - clopper_pearson_upper(trials - successes, trials, alpha)


def step_audit(
    mechanism: PrivateMechanism, *, steps: int, directions: int = 1000, seed: int | None = None
) -> StepCounts:
    """Put canaries into a mechanism and look for them in what it releases.

    Args:
        mechanism: The very object that trains, made for the audit: its steps 0..steps-1 are used up.
        directions: Canaries a step, present or absent.
        seed: Of the coins; default: the operating system's entropy.

    Raises:
        InputError: If there is nothing to observe.
    """
    if steps < 1 or directions < 2:
        raise InputError(f"{steps} steps of {directions} directions show nothing")
    generator = np.random.default_rng(seed)
    counts = np.zeros(4, dtype=np.int64)
    share = canary_share(mechanism.clipping)
    for step in range(steps):
        present = generator.random(directions) < 0.5
        bound = mechanism.clipping.sensitivity
        released = mechanism.release(step, _contribution(mechanism, present))
        seen = released.gradients[BANK].double().numpy() * (mechanism.plan.expected_batch_size / bound)
        named = seen > share / 2
        counts += [
            int((named & ~present).sum()),
            int((~present).sum()),
            int((~named & present).sum()),
            int(present.sum()),
        ]
    alarms, absent, misses, there = (int(count) for count in counts)
    return StepCounts(alarms, absent, misses, there, share)


def mechanism_for_audit(plan: PrivacyPlan, clipping: Clipping, directions: int) -> PrivateMechanism:
    """The mechanism that `private_steps` would make, for a step of canaries only.

    Args:
        plan: The plan with everything that a step releases.
        clipping: Of the training.
        directions: Canaries a step.
    """
    integers = directions + len(plan.releases) if plan.integers else 0
    return PrivateMechanism(replace(plan, integers=integers), canaried_clipping(clipping), RunKey.from_os())


def _contribution(mechanism: PrivateMechanism, present: NDArray[np.bool_]) -> Contribution:
    """The clipped sum over the canaries that are present; each is a unit of its own."""
    clipping, length = mechanism.clipping, canary_length(mechanism.clipping)
    total = mechanism.nothing({BANK: torch.zeros(len(present))})
    places = torch.from_numpy(np.flatnonzero(present))
    # Hardened mode takes one unit at a time, as the training does.
    for part in places.split(1) if mechanism.hardened else (places,):
        norms = torch.zeros(len(part), _groups(clipping), dtype=torch.float64)
        own = clipping.groups([BANK])[0]
        norms[:, own] = length
        factors = clipping.factors(norms)
        values = torch.zeros(len(present), dtype=torch.float64)
        values[part] = factors[:, own] * length
        total.add({BANK: values.float()}, torch.zeros(len(part)), factors)
    return total


def _groups(clipping: Clipping) -> int:
    return len(clipping.bounds) if isinstance(clipping, PerLayerClipping) else 1


def sampling_epsilon(plan: PrivacyPlan, drawn: int, trials: int, confidence: float = 0.95) -> float:
    """Lower bound on ε of the claimed noise with the sampling rate that was seen.

    Args:
        drawn: How often canaries were sampled, of `trials` times that they could have been.

    Raises:
        InputError: If the plan does not sample by independent coins.
    """
    if not isinstance(plan.sampling, PoissonSampling):
        raise InputError(f"{plan.sampling.name} sampling has no rate of independent coins")
    rate = clopper_pearson_lower(drawn, trials, 1 - confidence)
    if rate <= 0:
        return 0.0
    rate = min(1.0, rate)
    seen = replace(plan, sampling=PoissonSampling(rate), sampling_rate=rate, releases=())
    return seen.epsilon()
