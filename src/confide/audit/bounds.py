# SPDX-License-Identifier: Apache-2.0
"""Lower bounds on ε from guesses at who was in the training.

*Formal guarantee.* m canaries are in or out by independent fair coins. Whoever attacks sees the mechanism's
output and names N canaries that he takes to be in; W of them are. If the mechanism is (ε, δ)-DP for each
canary, then a bound computed here exceeds ε with a probability of at most 1 − `confidence`.

| method | rests on |
|---|---|
| `eps-delta` | nothing but (ε, δ)-DP: Steinke, Nasr, Jagielski (2023), arXiv:2305.08846, theorem 5.2 |
| `f-dp` | a Gaussian trade-off curve: Mahloujifar, Melis, Chaudhuri (2024), arXiv:2410.22235 |
| `plan_lower_bound` | a curve of the plan's own family: the same, with the plan's privacy profile |

N has to be chosen without looking at the guesses that are counted: several N fixed beforehand, with the
error probability divided among them ("grid"), or on random halves ("split": the median of the bounds at half
the error probability), or beforehand (a number). Choosing the best N afterwards would make every bound here
worthless.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from confide.audit.tradeoff import Curve, GaussianCurve, PlanCurves
from confide.errors import InputError
from confide.privacy.accountants import checked_delta
from confide.privacy.plan import PrivacyPlan

Choice = int | Literal["grid", "split"]
# Random halvings whose median is taken.
SPLITS = 25
# Bisection stops here; the end that is returned was rejected.
_PRECISION = 1e-5
# Levels of noise that `plan_lower_bound` tries: from 2^-4 to 2^4 of the claimed noise multiplier.
_LEVELS = 32


@dataclass(frozen=True)
class Guesses:
    """How many canaries there were, how many were named as in, and how many of these were."""

    canaries: int
    made: int
    correct: int


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Probability bound of so many correct guesses under (ε, δ)-DP: Steinke et al. (2023), theorem 5.2."""
    right = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(guesses.correct - 1, guesses.made, right))
    if delta == 0 or guesses.correct == 0:
        return min(1.0, tail)
    less = np.arange(1, guesses.correct + 1)
    more = binom.sf(guesses.correct - less - 1, guesses.made, right) - tail
    return min(1.0, tail + 2 * guesses.canaries * delta * max(0.0, float((more / less).max())))


def curve_rejected(guesses: Guesses, curve: Curve, alpha: float) -> bool:
    """Whether so many correct guesses have a probability of at most α under a trade-off curve.

    Mahloujifar et al. (2024), algorithm 3: the largest probabilities of exactly i correct guesses that the
    curve allows are followed downwards from W; if they cannot sum up to one, the curve is impossible.
    """
    made, correct = guesses.made, guesses.correct
    right = alpha * correct / guesses.canaries
    wrong = alpha * (made - correct) / guesses.canaries
    for i in range(correct - 1, -1, -1):
        least = curve.least(min(right, 1.0))
        if least <= wrong:
            break  # neither number can change any more
        right += (least - wrong) * i / (made - i)
        wrong = least
    return right + wrong > made / guesses.canaries


Rejected = Callable[[float, Guesses, float], bool]


def _by_epsilon(delta: float, method: str) -> Rejected:
    """The test of a method: (ε, guesses, α) -> whether ε is too small for so many correct guesses."""
    if method == "eps-delta":
        return lambda epsilon, guesses, alpha: one_run_p_value(guesses, epsilon, delta) <= alpha
    if method == "f-dp":
        return lambda epsilon, guesses, alpha: curve_rejected(
            guesses, GaussianCurve.of(epsilon, delta), alpha
        )
    raise InputError(f"unknown method {method!r}", remedy="Choose eps-delta or f-dp.")


def _largest(rejected: Callable[[float], bool], above: float) -> float:
    """The largest ε ≥ `above` that is rejected, rounded down; `above` if that is not."""
    start = max(above, 1e-6)
    if not rejected(start):
        return above
    low, high = start, max(1.0, 2 * start)
    while rejected(high):
        low, high = high, 2 * high
        if high > 1e3:
            return low
    while high - low > _PRECISION * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def one_run_epsilon_lower_bound(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    method: Literal["eps-delta", "f-dp"] = "eps-delta",
    guesses: Choice = "grid",
    seed: int = 0,
) -> float:
    """Lower bound on ε(δ) from one training run.

    Args:
        scores: (m,) the higher, the more a canary looks as if it was in.
        included: (m,) whether it was, by independent fair coins.
        delta: δ of the claim.
        confidence: The true ε lies below the bound with a probability of at most 1 − confidence.
        method: See the module.
        guesses: How the number of guesses N is chosen; a number must have been fixed beforehand.
        seed: Of the random halves. They need no secrecy.

    Raises:
        InputError: If the arguments do not fit each other.
        PlanError: If δ is impossible.
    """
    ranked = ranked_coins(scores, included)
    checked_delta(delta)
    test = _by_epsilon(delta, method)

    def bound(given: Guesses, alpha: float, above: float) -> float:
        return _largest(lambda epsilon: test(epsilon, given, alpha), above)

    return honest(ranked, bound, _alpha(confidence), guesses, seed)


def guesses_lower_bound(
    guesses: Guesses,
    *,
    delta: float,
    confidence: float = 0.95,
    method: Literal["eps-delta", "f-dp"] = "eps-delta",
) -> float:
    """Lower bound on ε(δ) from counts whose N was fixed before the scores were looked at."""
    test, alpha = _by_epsilon(checked_delta(delta), method), _alpha(confidence)
    return _largest(lambda epsilon: test(epsilon, guesses, alpha), 0.0)


def plan_lower_bound(
    scores: ArrayLike,
    included: ArrayLike,
    plan: PrivacyPlan,
    *,
    confidence: float = 0.95,
    guesses: Choice = "grid",
    seed: int = 0,
) -> float:
    """Lower bound on ε from one run, as the plan with less noise that is still rejected.

    The f-DP method with the plan's own trade-off curve in place of a Gaussian one; ε is that of a plan with
    noise σ·2^(k/8), rounded down. It exceeds the plan's ε only if the plan itself is rejected.

    Raises:
        InputError: If scores and coins do not fit each other.
        PlanError: For fixed-size sampling.
    """
    ranked = ranked_coins(scores, included)
    family = PlanCurves(plan)
    epsilons: dict[int, float] = {}

    def epsilon(level: int) -> float:
        if level not in epsilons:
            epsilons[level] = family.at(level).epsilon()
        return epsilons[level]

    def bound(given: Guesses, alpha: float, above: float) -> float:
        # More noise is easier to reject. The first `low` stands for ε = 0.
        low, high = _LEVELS + 1, -_LEVELS - 1
        while low - high > 1:
            middle = (low + high) // 2
            rejected = curve_rejected(given, family.curve(middle), alpha)
            low, high = (middle, high) if rejected else (low, middle)
        return max(above, epsilon(low) if low <= _LEVELS else 0.0)

    return honest(ranked, bound, _alpha(confidence), guesses, seed)


Bound = Callable[[Guesses, float, float], float]


def ranked_coins(scores: ArrayLike, included: ArrayLike) -> NDArray[np.bool_]:
    """The coins (m,) in falling order of the scores; ties stand in the order of the canaries.

    Raises:
        InputError: If lengths differ, there are fewer than two, or a score is NaN.
    """
    values, coins = np.asarray(scores, dtype=np.float64), np.asarray(included, dtype=bool)
    if values.ndim != 1 or values.shape != coins.shape or len(values) < 2:
        raise InputError(
            f"scores of shape {values.shape} and coins of shape {coins.shape} do not fit",
            remedy="Give one score and one coin for each of at least two canaries.",
        )
    if np.isnan(values).any():
        raise InputError("a score is NaN", remedy="Give a diverged canary the lowest score instead.")
    return coins[np.argsort(-values, kind="stable")]


def honest(ranked: NDArray[np.bool_], bound: Bound, alpha: float, guesses: Choice, seed: int) -> float:
    """A bound whose number of guesses was not chosen by the guesses that it counts."""
    if isinstance(guesses, int):
        if not 1 <= guesses <= len(ranked):
            raise InputError(f"{guesses} guesses at {len(ranked)} canaries")
        return bound(_counted(ranked, guesses), alpha, 0.0)
    if guesses == "grid":
        grid = guess_grid(len(ranked), math.sqrt(2))
        return _best(ranked, bound, alpha / len(grid), grid)[0]
    if guesses != "split":
        raise InputError(f"unknown choice of guesses {guesses!r}", remedy="Give grid, split or a number.")
    generator = np.random.default_rng(seed)
    found = [_split(ranked, bound, alpha / 2, generator) for _ in range(SPLITS)]
    return float(np.median(found))


def guess_grid(canaries: int, factor: float) -> NDArray[np.int64]:
    """Numbers of guesses from half of the canaries downwards, each smaller by a factor; a function of m only.

    Fewer than six guesses cannot refute anything at 95% confidence, and more than half would name canaries
    that are more likely out than in.
    """
    most = max(1, canaries // 2)
    count = max(1, math.floor(math.log(max(most / 6, 1)) / math.log(factor)) + 1)
    return np.unique(np.round(most / factor ** np.arange(count)).astype(np.int64))


def _split(ranked: NDArray[np.bool_], bound: Bound, alpha: float, generator: np.random.Generator) -> float:
    """N is chosen on one random half and counted on the other; each half keeps the order of the scores."""
    half = len(ranked) // 2
    order = generator.permutation(len(ranked))
    chosen, counted = ranked[np.sort(order[:half])], ranked[np.sort(order[half : 2 * half])]
    best = _best(chosen, bound, alpha, guess_grid(half, 1.2))[1]
    return bound(_counted(counted, best), alpha, 0.0)


def _best(
    ranked: NDArray[np.bool_], bound: Bound, alpha: float, grid: NDArray[np.int64]
) -> tuple[float, int]:
    """The largest bound over a grid of N, and its N. The most promising first: they rule out the rest."""
    correct = np.cumsum(ranked)[grid - 1]
    # A rough rank by the normal approximation of the excess over one half.
    promise = correct / grid - 1.5 / np.sqrt(grid)
    best, at = 0.0, int(grid[np.argmax(promise)])
    for index in np.argsort(-promise):
        made, right = int(grid[index]), int(correct[index])
        if right / made <= 1 / (1 + math.exp(-best)):
            continue  # even without any error bar it could not beat the best
        found = bound(Guesses(len(ranked), made, right), alpha, best)
        if found > best:
            best, at = found, made
    return best, at


def _counted(ranked: NDArray[np.bool_], made: int) -> Guesses:
    return Guesses(len(ranked), made, int(ranked[:made].sum()))


def _alpha(confidence: float) -> float:
    if not 0.5 < confidence < 1:
        raise InputError(f"confidence {confidence} is outside (0.5, 1)")
    return 1 - confidence
