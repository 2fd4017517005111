# SPDX-License-Identifier: Apache-2.0
"""A whole audit through the real loop: honest training passes, each planted bug is found.

Audits of an honest run have a confidence of 0.9999: one is refuted by chance once in 10,000 at most.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.audit import bugs

from confide.audit import audit_run
from confide.audit.rehearsal import Subject, mislabelled, rehearse, rehearse_black_box
from confide.audit.run import AuditResult, LowerBound, rounded_down
from confide.data.augment import Augmentation
from confide.errors import InputError
from confide.mechanisms.clipping import AdaptiveClipping, PerLayerClipping
from confide.privacy.schemes import FixedSizeSampling, FullBatch
from confide.privacy.units import PrivacyUnit

SMALL = {"canaries": 400, "observations": 100_000, "confidence": 0.9999}


def _methods(result: AuditResult) -> set[str]:
    return {bound.method for bound in result.bounds if bound.refutes}


def test_an_honest_run_is_consistent(subject: Subject) -> None:
    result = audit_run(subject, **SMALL)
    assert not result.refuted and "Consistent" in result.verdict and "does not prove" in result.verdict
    assert {bound.method for bound in result.bounds} == {
        "noise",
        "sampling",
        "run, any mechanism",
        "run, the plan's curve",
    }
    for bound in result.bounds:
        assert bound.claim == pytest.approx(subject.plan.epsilon())
    # The sharp bounds come near the claim: an audit that sees nothing is worth nothing. At this confidence
    # they are 0.6 to 0.7 of it on average; by the binomial law of their counts below a third once in 10⁶.
    sharp = {bound.method: bound.epsilon / bound.claim for bound in result.bounds}
    assert sharp["noise"] > 1 / 3 and sharp["sampling"] > 1 / 3
    assert json.loads(json.dumps(result.to_dict()))["refuted"] is False


def test_noise_divided_by_four_is_found(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs.less_noise(4.0)(monkeypatch)
    result = audit_run(subject, **SMALL)
    assert "noise" in _methods(result) and result.refuted and result.best.method == "noise"
    assert "REFUTED" in result.verdict and "Do not release" in result.verdict


def test_noise_divided_by_the_batch_is_found_by_every_attack(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs.less_noise(subject.plan.expected_batch_size)(monkeypatch)
    result = audit_run(subject, **{**SMALL, "confidence": 0.95})
    assert _methods(result) == {"noise", "run, any mechanism", "run, the plan's curve"}


def test_everybody_in_each_batch_is_found(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs.everybody(monkeypatch)
    seen = [_methods(audit_run(subject, **{**SMALL, "confidence": 0.95})) for _ in range(3)]
    assert all("sampling" in methods for methods in seen)
    # 14 repeats gave bounds of 2.1 to 17 times the claim; the logarithms' spread puts one below it once in
    # several hundred, so three of three less than once in 10⁶.
    assert any("run, the plan's curve" in methods for methods in seen)


def test_the_same_noise_in_each_step_is_found_by_nobody_who_looks_at_single_steps(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The step audit takes steps to be independent; noise that repeats is for record/replay and moment
    # tests, and for whoever subtracts two steps. This says what an audit does not see.
    bugs.one_noise(monkeypatch)
    assert not audit_run(subject, steps=2, canaries=100, observations=20_000, confidence=0.9999).refuted


def test_clipping_to_three_times_the_bound_is_found(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs.unclipped(monkeypatch)
    assert "noise" in _methods(audit_run(subject, **SMALL))


def test_a_false_claim_in_a_record_is_found(subject: Subject) -> None:
    claim = replace(subject.plan.guarantee(), epsilon=0.02)
    assert audit_run(subject, claim=claim, **SMALL).refuted


def test_fewer_steps_are_held_against_the_claim_for_them(subject: Subject) -> None:
    result = audit_run(subject, steps=3, canaries=50, observations=20_000, confidence=0.9999)
    by_name = {bound.method: bound for bound in result.bounds}
    assert by_name["run, any mechanism"].steps == 3 == result.steps
    assert by_name["run, any mechanism"].claim == pytest.approx(subject.plan.epsilon(steps=3))
    assert by_name["noise"].steps == 20
    with pytest.raises(InputError, match="21 steps of a run that has 20"):
        audit_run(subject, steps=21, canaries=50, observations=20_000, confidence=0.9999)


def test_full_batches_and_fixed_size(subject: Subject) -> None:
    full = replace(subject.plan, sampling_rate=1.0, sampling=FullBatch(), steps=2)
    result = audit_run(replace(subject, plan=full), canaries=100, observations=20_000, confidence=0.9999)
    assert not result.refuted and "sampling" not in {bound.method for bound in result.bounds}
    fixed = replace(subject.plan, sampling=FixedSizeSampling(32, 640))
    result = audit_run(
        replace(subject, plan=fixed), canaries=100, observations=20_000, confidence=0.9999, steps=3
    )
    assert not result.refuted and {b.method for b in result.bounds} == {"noise", "run, any mechanism"}


def test_every_kind_of_training(subject: Subject) -> None:
    layers = PerLayerClipping((("0", 0.4), ("1", 0.4), ("5", 0.4)))
    flips = Augmentation.of(("flip",))
    kinds = [
        replace(subject, clipping=layers),
        replace(subject, clipping=AdaptiveClipping(0.5)),
        replace(subject, views=2, augmentation=flips),
        replace(subject, units=[i // 2 for i in range(640)], plan=replace(subject.plan, units=320)),
    ]
    for kind in kinds:
        seen = rehearse(kind, canaries=40, steps=2)
        assert (seen.scores.shape == (40,) and seen.drawn > 0) or seen.included.sum() < 30


def test_scores_tell_included_canaries_apart_where_noise_is_small(subject: Subject) -> None:
    loud = replace(
        subject, plan=replace(subject.plan, noise_multiplier=0.05, sampling_rate=0.5, steps=32, sampling=None)
    )
    seen = rehearse(loud, canaries=60)
    # A canary that is included stands 20 deviations out of the noise in 16 of 32 steps, and in none but for
    # 2^-32: false alarm 1.4e-8. All 60 are on one side with 2^-59.
    assert seen.scores[seen.included].min() > seen.scores[~seen.included].max()


@pytest.mark.parametrize("clip_norm", [0.7, 20.0])
def test_a_score_is_the_log_likelihood_ratio_in_clip_norms(subject: Subject, clip_norm: float) -> None:
    plan = replace(subject.plan, noise_multiplier=0.01, sampling_rate=1.0, sampling=FullBatch(), steps=1)
    seen = rehearse(replace(subject, plan=plan, clipping=clip_norm, release_loss=False), canaries=40)
    # (y − ½)/σ² with y = 1 or 0, and noise σ in y: six deviations are 0.06 of 0.5.
    assert np.abs(seen.scores * 0.01**2 - np.where(seen.included, 0.5, -0.5)).max() < 0.06


def test_the_model_is_left_as_it_was(subject: Subject) -> None:
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    rehearse(subject, canaries=20, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_a_plan_per_patient_needs_patients(subject: Subject) -> None:
    with pytest.raises(InputError, match="no row says whose it is"):
        rehearse(replace(subject, plan=replace(subject.plan, unit=PrivacyUnit.PATIENT)), canaries=20, steps=1)


def test_black_box_charges_every_step_and_is_consistent(subject: Subject) -> None:
    charged: list[int] = []

    class Book:
        def charge(self, step: int) -> None:
            charged.append(step)

    images = torch.randn(60, 1, 6, 6)
    labels = mislabelled(torch.randint(0, 2, (60,)), 2)
    result = audit_run(
        subject,
        steps=3,
        canaries=50,
        observations=20_000,
        confidence=0.9999,
        black_box=(images, labels),
        charge=Book(),
    )
    assert charged == [0, 1, 2]
    assert "finished model" in {bound.method for bound in result.bounds} and not result.refuted


def test_black_box_recognises_what_an_unprotected_model_memorises(subject: Subject) -> None:
    plan = replace(subject.plan, noise_multiplier=1e-3, sampling_rate=1.0, sampling=FullBatch(), steps=150)
    loud = replace(
        subject,
        plan=plan,
        clipping=100.0,
        dataset=(subject.dataset[0][:60], subject.dataset[1][:60]),
        optimizer=lambda m: torch.optim.SGD(m.parameters(), 5.0),
    )
    found = []
    for _ in range(4):
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(36, 256), torch.nn.Tanh(), torch.nn.Linear(256, 2)
        )
        seen = rehearse_black_box(
            replace(loud, model=model), torch.randn(60, 1, 6, 6), torch.randint(0, 2, (60,))
        )
        inside, outside = seen.scores[seen.included], seen.scores[~seen.included]
        found.append(float((inside[:, None] > outside[None, :]).mean()))
    # 25 repeats gave 0.81 ± 0.06, so a mean of four is below 0.65 less than once in a million times; an
    # attack that sees nothing has 0.5 ± 0.04.
    assert sum(found) / len(found) > 0.65


def test_wrong_labels_are_wrong() -> None:
    labels = torch.randint(0, 5, (500,))
    wrong = mislabelled(labels, 5)
    assert (wrong != labels).all() and wrong.min() >= 0 and wrong.max() < 5
    masks = torch.randint(0, 2, (7, 3, 3))
    assert (mislabelled(masks, 2) == 1 - masks).all()
    with pytest.raises(InputError, match="second class"):
        mislabelled(labels, 1)


def test_bad_arguments(subject: Subject) -> None:
    with pytest.raises(InputError, match="can refute nothing"):
        rehearse(subject, canaries=5)
    with pytest.raises(InputError, match="confidence"):
        audit_run(subject, confidence=0.2)


def test_lower_bounds_are_rounded_down() -> None:
    assert rounded_down(2.999) == "2.99" and rounded_down(float("inf")) == "∞"
    bound = LowerBound("x", 0.5, 1, 0.5, 0.95, "")
    assert not bound.refutes and replace(bound, epsilon=0.5001).refutes


def test_a_seeded_run_is_said_to_protect_nobody(subject: Subject) -> None:
    claim = subject.plan.guarantee(private=False)
    result = audit_run(subject, claim=claim, steps=1, canaries=20, observations=4000, confidence=0.9999)
    assert "protects nobody" in result.verdict
