# SPDX-License-Identifier: Apache-2.0
"""Whether a budget allows a plan, and what to say when it does not."""

from __future__ import annotations

from confide.errors import BudgetExhaustedError
from confide.privacy.ledger.composition import charges, composed, notes_of
from confide.privacy.ledger.state import RunEntry, State
from confide.privacy.plan import PrivacyPlan


def refuse_if_over(state: State, dataset: str, asked: RunEntry | None) -> None:
    """Refuse what would exceed a limit of the data set's budget.

    Args:
        asked: A run not yet in the ledger; None to check what is in it.

    Raises:
        BudgetExhaustedError: If one limit is exceeded; says what is left.
    """
    entries = state.runs_on(dataset) + ([asked] if asked else [])
    for limit, delta in state.limits_of(dataset):
        parts = charges(entries, reserved=True)
        epsilon, _ = composed(parts, delta)
        # Not `epsilon > limit`: NaN must refuse.
        if not epsilon <= limit:
            raise _exhausted(state, dataset, asked, epsilon, limit, delta, notes_of(parts))


def affordable_steps(state: State, dataset: str, asked: RunEntry) -> int:
    """The most steps of a plan that every limit still allows."""
    before = state.runs_on(dataset)
    low, high = 0, asked.reserved
    while low < high:
        middle = (low + high + 1) // 2
        trial = RunEntry(asked.run, asked.label, asked.dataset, asked.plan, middle)
        parts = charges([*before, trial], reserved=True)
        if all(composed(parts, delta)[0] <= limit for limit, delta in state.limits_of(dataset)):
            low = middle
        else:
            high = middle - 1
    return low


def _exhausted(
    state: State,
    dataset: str,
    asked: RunEntry | None,
    epsilon: float,
    limit: float,
    delta: float,
    notes: tuple[str, ...],
) -> BudgetExhaustedError:
    promised, _ = composed(charges(state.runs_on(dataset), reserved=True), delta)
    if asked is None:
        return BudgetExhaustedError(
            f"the limit ε = {limit:.4g} at δ = {delta:.3g} is below what is reserved, ε = {promised:.4g}",
            where=f"data set {dataset}",
            remedy="Settle runs that ended, or raise the limit: confide ledger limit",
        )
    steps = affordable_steps(state, dataset, asked)
    left = (
        f"{steps} of its {asked.reserved} steps are still affordable"
        if steps
        else "not one step is affordable"
    )
    return BudgetExhaustedError(
        f"the plan would bring the data set to ε = {epsilon:.4g} of {limit:.4g} at δ = {delta:.3g}; {left}",
        where=f"data set {dataset}",
        why=" ".join([f"ε = {promised:.4g} is reserved already", *notes]).strip(),
        remedy="Plan fewer steps or more noise, settle runs that ended, or raise the limit",
    )


def entry_of(
    run: str, label: str, dataset: str, plan: PrivacyPlan, study: str | None, actor: str | None
) -> RunEntry:
    """A run's account before its first lease."""
    return RunEntry(run, label, dataset, plan.to_dict(), plan.steps, study=study, actor=actor)


def compose_beforehand(state: State, dataset: str, draft: RunEntry) -> None:
    """Compose what `refuse_if_over` will ask for; the answer is remembered."""
    if dataset in state.units:
        parts = charges([*state.runs_on(dataset), draft], reserved=True)
        for _, delta in state.limits_of(dataset):
            composed(parts, delta)
