# SPDX-License-Identifier: Apache-2.0
"""`confide plan` as users type it."""

from __future__ import annotations

import json

import pytest

from confide.cli.main import run
from confide.privacy.plan import PrivacyPlan

SCHEDULE = ("--units", "5000", "--batch-size", "500", "--delta", "1e-5", "--steps", "20")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        run(["plan", *words])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_the_budget_of_a_noise(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *SCHEDULE, "--noise-multiplier", "2", "--json")
    found = json.loads(out)
    plan = PrivacyPlan(2.0, 0.1, 20, 1e-5, 5000)
    assert code == 0
    assert found["epsilon"] == plan.epsilon() < found["epsilon_rdp"] == plan.epsilon("rdp")
    assert found["guarantee"]["delta"] == 1e-5 and "Rests on" in found["guarantee"]["text"]


def test_the_noise_of_a_budget_is_shown_rounded_up(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--epsilon", "3", "--unit", "patient", "--sampling", "full-batch", "--batch-size", "5000")
    code, out, _ = call(capsys, *SCHEDULE, *asked)
    assert code == 0
    words = " ".join(out.split())
    shown = float(words.split("noise multiplier σ ")[1].split()[0])
    plan = PrivacyPlan.for_budget(
        epsilon=3.0, delta=1e-5, units=5000, batch_size=5000, steps=20, sampling=_full()
    )
    assert 0 <= shown - plan.noise_multiplier < 1e-4
    assert "ε per patient 3.00 at δ = 1e-05" in words
    assert "(ε = 3.00, δ = 1e-05)-DP per patient; neighbours: add-or-remove-one" in words


def _full() -> object:
    from confide.privacy.schemes import FullBatch

    return FullBatch()


def test_groups_studies_and_hardened_noise(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--noise-multiplier", "4", "--per-patient", "2", "--trials", "5", "--trials-shape", "poisson")
    code, out, _ = call(capsys, *SCHEDULE, *words, "--integers", "1000000000000", "--json")
    found = json.loads(out)
    assert code == 0
    plain = PrivacyPlan(4.0, 0.1, 20, 1e-5, 5000)
    assert found["epsilon"] > plain.epsilon()
    assert found["epsilon_for_groups_of_2"] > plain.group_epsilon(2)
    assert found["study"]["epsilon"] > found["epsilon_rdp"] and found["study"]["trials"] == "poisson"
    code, out, _ = call(capsys, *SCHEDULE, *words)
    assert (
        "ε for 2 images" in out
        and "the best of 5 trials" in out
        and "none was stopped early" in " ".join(out.split())
    )


def test_fixed_size_batches_have_their_own_adjacency(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *SCHEDULE, "--noise-multiplier", "4", "--sampling", "fixed-size", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["guarantee"]["adjacency"] == "replace-one"
    assert "epsilon_gdp_not_a_bound" not in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of --epsilon and --noise-multiplier"),
        (("--epsilon", "1", "--noise-multiplier", "1"), "one of --epsilon and --noise-multiplier"),
        (("--epsilon", "1", "--unit", "hospital"), "Choose one of: image, patient"),
        (("--epsilon", "1", "--sampling", "shuffle"), "Choose one of: poisson"),
        (("--epsilon", "-1"), "epsilon"),
        (("--noise-multiplier", "4", "--trials", "0.5"), "mean"),
        (("--noise-multiplier", "4", "--trials", "5", "--trials-shape", "uniform"), "geometric"),
    ],
)
def test_wrong_usage_ends_with_two(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *SCHEDULE, *words)
    assert code == 2
    assert message in err
