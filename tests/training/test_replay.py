# SPDX-License-Identifier: Apache-2.0
"""Record/replay: a run on D, and the same run on D without one unit, with the same randomness and with the
outputs of the first. Whatever the loop decides must be the same, and what enters the mechanism may differ by
the declared sensitivity at most. Fresh keys and fresh data in every test.
"""

from __future__ import annotations

import pytest
import torch
from tests.training.recording import Case, Rows, Tape, small_model

from confide.mechanisms.clipping import AdaptiveClipping, AutomaticClipping, FlatClipping, PerLayerClipping
from confide.mechanisms.keys import RunKey

NAMES = [name for name, _ in small_model().named_parameters()]
CASES = {
    "plain": Case(),
    "views": Case(views=4),
    "patient": Case(per_unit=4),
    "patient-views": Case(per_unit=3, views=2),
    "accumulated": Case(physical=2),
    "accumulated-patient": Case(per_unit=4, physical=3, clipping=FlatClipping(0.2)),
    "automatic": Case(clipping=AutomaticClipping(0.5)),
    "per-layer": Case(clipping=PerLayerClipping.even(0.5, NAMES)),
    "adaptive": Case(clipping=AdaptiveClipping(0.5)),
    "hardened": Case(hardened=True),
    "hardened-patient-views": Case(hardened=True, per_unit=3, views=2, clipping=AdaptiveClipping(0.3)),
}
# Above the rounding of a sum of a dozen float32 gradients, relative to the clip norm.
ROUNDING = 1e-5


def differences(one: Tape, other: Tape) -> list[dict[str, float]]:
    """‖Δ‖ of every input of every step."""
    return [
        {name: float(torch.linalg.vector_norm(a[name] - b[name])) for name in a}
        for a, b in zip(one.inputs, other.inputs, strict=True)
    ]


def check(case: Case, tape: Tape, replayed: Tape, copies: int) -> None:
    assert tape.controls == replayed.controls
    seen = differences(tape, replayed)
    moved = 0
    for entry, found in zip([c for c in tape.controls if c[0] == "release"], seen, strict=True):
        bound = entry[2].sensitivity * copies
        assert found["gradient"] <= bound * (1 + ROUNDING)
        # Losses of other rows, in a batch of another size, differ by rounding.
        assert found["loss"] <= 4.0 * copies * (1 + ROUNDING)
        assert found["clip-fraction"] <= 0.5 * copies + 1e-9 if "clip-fraction" in found else True
        moved += found["gradient"] > 0.1 * entry[2].sensitivity
    # The unit was really in some batches: it misses all 24 with probability 2^-24.
    assert moved > 0


@pytest.mark.parametrize("name", CASES)
def test_one_unit_moves_nothing_but_the_sums_and_those_within_the_sensitivity(name: str) -> None:
    case, key = CASES[name], RunKey.from_os()
    rows = Rows.drawn(case.units, case.per_unit)
    tape, _ = case.run(rows, key)
    replayed, _ = case.run(rows.without_last(), key, script=tape.outputs)
    check(case, tape, replayed, copies=1)
    for mine, theirs in zip(tape.chosen, replayed.chosen, strict=True):
        assert set(mine) - {case.units - 1} == set(theirs)


def test_replacing_a_unit_of_a_fixed_size_batch_moves_a_sum_by_twice_the_bound_at_most() -> None:
    case, key = Case(fixed_size=True), RunKey.from_os()
    rows = Rows.drawn(case.units)
    tape, _ = case.run(rows, key)
    replayed, _ = case.run(rows.with_last_replaced(), key, script=tape.outputs)
    check(case, tape, replayed, copies=2)
    assert all((a == b).all() for a, b in zip(tape.chosen, replayed.chosen, strict=True))
    assert max(found["gradient"] for found in differences(tape, replayed)) > case.clipping.sensitivity


def test_a_batch_without_the_unit_has_bit_for_bit_the_same_sums() -> None:
    """Views, order and physical batches of the others do not depend on who else is in the data set."""
    case, key = Case(per_unit=3, views=3, physical=5), RunKey.from_os()
    rows = Rows.drawn(case.units, case.per_unit)
    tape, _ = case.run(rows, key)
    replayed, _ = case.run(rows.without_last(), key, script=tape.outputs)
    absent = [i for i, chosen in enumerate(tape.chosen) if case.units - 1 not in chosen]
    assert absent  # none of 24 steps: probability 2^-24
    for step in absent:
        for name, value in tape.inputs[step].items():
            assert torch.equal(value, replayed.inputs[step][name])
