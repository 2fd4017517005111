# SPDX-License-Identifier: Apache-2.0
"""What runs may reserve, and what they are charged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from confide.errors import BudgetExhaustedError, ConfigError, LedgerError
from confide.privacy.ledger import Ledger
from confide.privacy.ledger.events import verify_export
from confide.privacy.ledger.reservation import default_block
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FixedSizeSampling
from confide.privacy.units import PrivacyUnit


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as book:
        book.register("chest", "fingerprint", PrivacyUnit.IMAGE)
        yield book


def test_a_limit_equal_to_the_plan_is_enough_once(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.limit("chest", plan.epsilon(), 1e-5)
    ledger.reserve("chest", plan, run="one")
    with pytest.raises(BudgetExhaustedError, match="not one step") as refusal:
        ledger.reserve("chest", plan, run="two")
    assert refusal.value.exit_code == 3
    assert len(ledger.runs()) == 1, "a refusal leaves no trace in the account"


def test_a_refusal_says_how_many_steps_are_left(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.limit("chest", plan.epsilon(steps=500), 1e-5)
    ledger.reserve("chest", plan, run="one")
    with pytest.raises(BudgetExhaustedError, match="100 of its 400 steps"):
        ledger.reserve("chest", plan, run="two")
    assert ledger.affordable("chest", plan) == 100
    ledger.reserve("chest", replace(plan, steps=100), run="two")


def test_spent_counts_what_was_charged_not_what_was_planned(ledger: Ledger, plan: PrivacyPlan) -> None:
    reservation = ledger.reserve("chest", plan, run="one", block=8)
    for step in range(10):
        reservation.charge(step)
    spent = ledger.spent("chest")
    assert (spent.steps_leased, spent.steps_reserved) == (16, 400)
    assert spent.epsilon == pytest.approx(plan.epsilon(steps=16))
    reservation.close(10)
    spent = ledger.spent("chest")
    assert (spent.steps_leased, spent.steps_reserved) == (10, 10)
    assert spent.reserved_epsilon == spent.epsilon


def test_charged_steps_are_never_given_back(ledger: Ledger, plan: PrivacyPlan) -> None:
    reservation = ledger.reserve("chest", plan, run="one", block=8)
    for step in range(10):
        reservation.charge(step)
    reservation.close(3)
    assert ledger.spent("chest").steps_leased == 10


def test_leases_taken_by_hand(ledger: Ledger, plan: PrivacyPlan) -> None:
    reservation = ledger.reserve("chest", plan, run="one")
    assert reservation.lease(30) == range(30)
    assert reservation.lease(1000) == range(30, 400), "a lease ends where the plan ends"
    with pytest.raises(BudgetExhaustedError, match="all 400"):
        reservation.lease(1)
    reservation.close(35)
    assert ledger.spent("chest").steps_leased == 35


def test_more_used_than_charged_is_an_alarm(ledger: Ledger, plan: PrivacyPlan) -> None:
    reservation = ledger.reserve("chest", plan, run="one", block=1)
    reservation.charge(0)
    with pytest.raises(LedgerError, match="does not hold"):
        reservation.close(2)


def test_the_step_after_the_last_is_refused(ledger: Ledger, plan: PrivacyPlan) -> None:
    reservation = ledger.reserve("chest", plan, run="one")
    for step in range(plan.steps):
        reservation.charge(step)
    with pytest.raises(BudgetExhaustedError, match="step 401"):
        reservation.charge(plan.steps)


def test_a_crash_keeps_the_lease_and_a_pause_gives_it_back(path: Path, plan: PrivacyPlan) -> None:
    crashed = Ledger.open(path)
    crashed.register("chest", "f", plan.unit)
    crashed.reserve("chest", plan, run="one", block=8).charge(0)
    crashed._store.close()  # as a crash: nothing is given back
    with Ledger.open(path) as ledger:
        reservation = ledger.resume("one", plan, block=8)
        assert reservation.charged == 8
        reservation.charge(8)
    with Ledger.open(path) as ledger:
        assert ledger.resume("one", plan).charged == 9


def test_replayed_steps_are_charged_again(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.limit("chest", plan.epsilon(steps=410), 1e-5)
    first = ledger.reserve("chest", plan, run="one", block=1)
    for step in range(20):
        first.charge(step)
    again = ledger.resume("one", plan, replay=10, block=1)
    for step in range(10, 400):
        again.charge(step)
    assert ledger.spent("chest").steps_leased == 410
    with pytest.raises(BudgetExhaustedError):
        ledger.resume("one", plan, replay=1)


def test_resume_refuses_another_plan_and_an_unknown_run(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.reserve("chest", plan, run="one")
    with pytest.raises(LedgerError, match="plan differs"):
        ledger.resume("one", replace(plan, noise_multiplier=30.0))
    with pytest.raises(LedgerError, match="no run"):
        ledger.resume("other", plan)


def test_settle_frees_what_was_never_leased(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.limit("chest", plan.epsilon(steps=450), 1e-5)
    stalled = ledger.reserve("chest", plan, run="/runs/one", block=8)
    stalled.charge(0)
    assert ledger.settle("one").leased == 8
    ledger.reserve("chest", plan, run="two")
    # The process that was thought dead lives: it may use its lease, and gets no other.
    for step in range(1, 8):
        stalled.charge(step)
    with pytest.raises(LedgerError, match="settled"):
        stalled.charge(8)
    with pytest.raises(BudgetExhaustedError):
        ledger.resume("one", plan)


def test_a_new_run_of_the_same_name_settles_the_old(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.limit("chest", plan.epsilon(steps=450), 1e-5)
    ledger.reserve("chest", plan, run="one", block=8).charge(0)
    ledger.reserve("chest", plan, run="one")
    assert [(entry.open, entry.leased) for entry in ledger.runs()] == [(False, 8), (True, 0)]


def test_a_lowered_limit_refuses_everything_further(ledger: Ledger, plan: PrivacyPlan) -> None:
    reservation = ledger.reserve("chest", plan, run="one", block=1)
    reservation.charge(0)
    ledger.limit("chest", plan.epsilon(steps=1) / 2, 1e-5)
    with pytest.raises(BudgetExhaustedError, match="below what is reserved"):
        reservation.charge(1)
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("chest", replace(plan, steps=1), run="two")
    ledger.limit("chest", 100.0, 1e-5)
    reservation.charge(1)


@pytest.mark.parametrize(
    ("name", "fingerprint", "parent"),
    [("renamed", "fingerprint", None), ("chest", "one byte changed", None), ("subset", "other", "chest")],
)
def test_neither_name_nor_byte_nor_subset_opens_a_fresh_budget(
    ledger: Ledger, plan: PrivacyPlan, name: str, fingerprint: str, parent: str | None
) -> None:
    ledger.limit("chest", plan.epsilon(), 1e-5)
    ledger.reserve("chest", plan, run="one")
    ledger.register(name, fingerprint, plan.unit, parent=parent)
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve(name, plan, run="two")
    ledger.register("foreign", "quite another", plan.unit)
    ledger.reserve("foreign", plan, run="two")


def test_registering_again_changes_nothing(ledger: Ledger) -> None:
    before = ledger.head
    ledger.register("chest", "fingerprint", PrivacyUnit.IMAGE)
    assert ledger.head == before
    with pytest.raises(ConfigError, match="no data set"):
        ledger.spent("nothing")


def test_two_plans_cost_what_their_gaussians_cost(ledger: Ledger, plan: PrivacyPlan) -> None:
    """Oracle: T₁ Gaussians of σ₁ and T₂ of σ₂ are one with 1/σ² = T₁/σ₁² + T₂/σ₂²."""
    ledger.reserve("chest", plan, run="one")
    ledger.reserve("chest", replace(plan, noise_multiplier=10.0, steps=50), run="two")
    mu = math.sqrt(400 / 20**2 + 50 / 10**2)
    spent = ledger.spent("chest")

    def tail(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    def delta(epsilon: float) -> float:
        return tail(mu / 2 - epsilon / mu) - math.exp(epsilon) * tail(-mu / 2 - epsilon / mu)

    assert delta(spent.reserved_epsilon) <= 1e-5 < delta(spent.reserved_epsilon - 0.05)


def test_mixed_relations_and_units_are_summed_and_said(ledger: Ledger, plan: PrivacyPlan) -> None:
    fixed = PrivacyPlan(20.0, 0.01, 100, 1e-5, 5000, sampling=FixedSizeSampling(50, 5000))
    ledger.reserve("chest", plan, run="one")
    ledger.reserve("chest", fixed, run="two")
    spent = ledger.spent("chest")
    assert spent.accountant == "rdp" and "replace-one" in spent.notes[0]
    assert spent.reserved_epsilon > plan.epsilon(delta=5e-6) + fixed.epsilon(delta=5e-6)
    with pytest.raises(ConfigError, match="per patient"):
        ledger.reserve("chest", replace(plan, unit=PrivacyUnit.PATIENT), run="three")
    ledger.register("chest", "fingerprint", PrivacyUnit.PATIENT)
    ledger.reserve("chest", replace(plan, unit=PrivacyUnit.PATIENT), run="three")
    both = ledger.spent("chest")
    assert both.units == ("image", "patient") and len(both.notes) == 2
    assert both.reserved_epsilon > spent.reserved_epsilon + plan.epsilon()


def test_no_secret_path_or_fingerprint_is_in_it(ledger: Ledger, plan: PrivacyPlan, path: Path) -> None:
    ledger.register("canary", "fingerprint-canary", plan.unit)
    ledger.reserve("canary", plan, run="/home/canary-folder/runs/one").charge(0)
    key = ledger._store.key
    for part in path.parent.iterdir():
        content = part.read_bytes()
        for canary in (b"fingerprint-canary", b"canary-folder", key, key.hex().encode()):
            assert canary not in content
        if part.suffix == ".sqlite":
            assert part.stat().st_mode & 0o077 == 0


def test_export_is_a_chain_that_anybody_can_check(ledger: Ledger, plan: PrivacyPlan, tmp_path: Path) -> None:
    ledger.reserve("chest", plan, run="one").charge(0)
    out = tmp_path / "e.jsonl"
    head = ledger.export(out)
    assert verify_export(out) == (head.seq, head.hash)
    lines = out.read_text().splitlines()
    assert json.loads(lines[-1])["prev_hash"] == json.loads(lines[-2])["hash"]
    altered = json.loads(lines[2])
    altered["body"]["steps"] = 1
    for bad in (
        lines[1:],
        lines[:2] + lines[3:],
        [lines[1], lines[0]],
        [*lines[:2], json.dumps(altered), *lines[3:]],
    ):
        out.write_text("\n".join(bad))
        with pytest.raises(LedgerError, match="altered"):
            verify_export(out)


def test_blocks_are_small_beside_the_plan() -> None:
    for steps in (1, 5, 79, 80, 150, 1000, 10_000, 10**6):
        block = default_block(steps)
        assert 1 <= block <= 64 and (block == 1 or block <= steps / 10)
