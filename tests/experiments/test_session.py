# SPDX-License-Identifier: Apache-2.0
"""Runs from beginning to end, interrupted, killed, resumed, exhausted."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from confide.errors import BudgetExhaustedError, ConfigError, ModelError, RunError
from confide.experiments import history
from confide.experiments.config import Experiment
from confide.experiments.opening import open_session
from confide.experiments.planning import make_work
from confide.experiments.prepare import load_data
from confide.experiments.record import RunRecord, load_run
from confide.experiments.run import Silent, fit
from confide.experiments.trained import trained_model
from confide.gradients.engine import clipped_gradient
from confide.gradients.memory import keep_freed_memory
from confide.privacy.ledger import Ledger

Make = Callable[..., Experiment]


class At(Silent):
    """Does something after a step."""

    def __init__(self, step: int, action: Callable[[], Any]) -> None:
        self.step = step
        self.action = action

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        if number == self.step:
            self.action()


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Crash(Exception):
    """Stands for anything that ends a process between two checkpoints."""


def crash() -> None:
    raise Crash


def weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    return load_file(experiment.folder / "model.safetensors")


def charged() -> list[int]:
    with Ledger.open() as ledger:
        return [entry.leased for entry in ledger.runs()]


def test_a_run_folder_holds_what_the_design_names(make: Make) -> None:
    experiment = make(privacy={"epsilon": 1.0, "delta": 1e-3})
    record = fit(experiment)
    there = {path.name for path in experiment.folder.iterdir()}
    assert {
        "experiment.yaml",
        "run.json",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.npz",
        "checkpoint",
    } <= there
    assert not [name for name in there if name.endswith(".part")]
    assert record.status == "finished"
    assert record.guarantee is not None and record.spent is not None
    assert record.guarantee["epsilon"] <= 1.0 and record.guarantee["unit"] == "patient"
    # 60 patients, not 120 images, are what the guarantee counts.
    assert record.guarantee["units"] == 60 and record.guarantee["sampling_rate"] == pytest.approx(20 / 60)
    assert record.spent.steps == record.guarantee["steps"] == 9
    assert charged() == [9]
    steps = history.load(experiment.folder).steps
    assert [line.step for line in steps] == list(range(1, 10))
    curve = [line.epsilon for line in steps]
    assert curve == sorted(curve) and curve[-1] == pytest.approx(record.guarantee["epsilon"], rel=1e-9)
    assert RunRecord.load(experiment.folder) == record


def test_scores_are_those_of_the_weights_that_are_kept(make: Make) -> None:
    experiment = make()
    fit(experiment)
    run = load_run(experiment.folder)
    assert run.predictions is not None and run.predictions.probabilities is not None
    images, labels = load_data(experiment.data).test.batch(np.arange(24))
    with torch.no_grad():
        again = torch.softmax(trained_model(run)(images), 1).numpy()
    np.testing.assert_allclose(run.predictions.probabilities, again, atol=1e-6)
    accuracy = float((again.argmax(1) == labels.numpy()).mean())
    assert run.record.metrics["test"]["accuracy"].value == pytest.approx(accuracy)


def test_images_of_ones_own_stay_out_of_the_run_folder_unless_asked_for(make: Make) -> None:
    fit(make("without"))
    fit(make("with", evaluation__samples=5))
    without, with_some = (load_run(make(name).folder).predictions for name in ("without", "with"))
    assert without is not None and without.samples is None
    assert (
        with_some is not None and with_some.samples is not None and with_some.samples.shape == (5, 16, 16, 1)
    )


def test_the_twin_without_privacy_uses_the_same_trainer(make: Make) -> None:
    record = fit(make(privacy="none"))
    assert record.status == "finished" and record.guarantee is None and record.spent is None
    assert record.metrics["test"]["accuracy"].value is not None


def test_the_twin_keeps_freed_memory_as_a_private_run_does(make: Make) -> None:
    keep_freed_memory.cache_clear()  # it is asked once in a process
    fit(make(privacy="none"))
    assert keep_freed_memory.cache_info().currsize == 1


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(make: Make, private: bool, stop: int) -> None:
    # A seed makes sampling and noise functions of the step, so both runs must agree to the last bit.
    changed: dict[str, Any] = {"seed": 7} | ({} if private else {"privacy": "none"})
    whole, halved = make("whole", **changed), make("halved", **changed)
    fit(whole)
    assert fit(halved, listener=At(stop, ctrl_c)).status == "interrupted"
    assert not (halved.folder / "model.safetensors").exists()
    record = fit(halved)
    assert record.status == "finished"
    lines = history.load(halved.folder).steps
    assert [line.step for line in lines] == list(range(1, 10))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(halved)[name]), name
    if private:
        assert record.spent is not None and record.spent.steps == 9
        assert charged() == [9, 9]


def test_a_crash_never_gives_back_what_was_charged(make: Make) -> None:
    experiment = make(evaluation__every_epochs=100)
    with pytest.raises(Crash):
        fit(experiment, listener=At(4, crash))
    assert RunRecord.load(experiment.folder).status == "failed"
    assert charged()[0] >= 4
    record = fit(experiment)
    # Steps 1 to 4 left no checkpoint: they stay spent and are not repeated, so ε stays within the plan's.
    assert record.status == "finished"
    assert record.spent is not None and record.spent.steps == 9
    assert charged() == [9]
    assert any("count as spent" in warning for warning in record.warnings)
    steps = [line.step for line in history.load(experiment.folder).steps]
    assert len(steps) == len(set(steps)) and max(steps) == 9


def test_a_step_that_fails_half_way_counts_as_spent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return crash() if len(calls) == 5 else clipped_gradient(*args, **options)

    monkeypatch.setattr("confide.training.step.clipped_gradient", failing)
    experiment = make()
    with pytest.raises(Crash):
        fit(experiment)
    record = RunRecord.load(experiment.folder)
    # Four steps are done; the fifth was charged before its gradient was taken.
    assert record.spent is not None and record.spent.steps == 5


def test_the_first_step_after_a_crash_has_the_rate_of_its_own_number(make: Make) -> None:
    experiment = make(evaluation__every_epochs=100)
    with pytest.raises(Crash):
        fit(experiment, listener=At(4, crash))  # without a checkpoint: the optimizer starts anew
    with open_session(experiment, resume=True, command=[]) as session:
        assert session.progress.step >= 4
        (rate,) = {group["lr"] for group in session.trainer.optimizer.param_groups}
        assert rate == pytest.approx(2e-3 * (1 + math.cos(math.pi * session.progress.step / 9)) / 2)


def test_without_a_ledger_the_history_tells_how_far_a_crashed_run_had_come(make: Make) -> None:
    experiment = make(privacy__ledger=False, evaluation__every_epochs=100)
    with pytest.raises(Crash):
        fit(experiment, listener=At(4, crash))
    assert fit(experiment).status == "finished"
    assert [line.step for line in history.load(experiment.folder).steps] == list(range(1, 10))


def test_a_seeded_run_says_that_it_protects_nobody(make: Make) -> None:
    record = fit(make(seed=1))
    assert record.seed_policy == "not private: seeded"
    assert record.guarantee is not None and record.guarantee["private"] is False
    assert "not private: seeded" in record.guarantee["text"]


def test_runs_from_the_operating_system_differ(make: Make) -> None:
    first, second = make("first"), make("second")
    for experiment in (first, second):
        torch.manual_seed(0)  # the same initial weights: what differs is the key's
        fit(experiment)
    pairs = zip(weights(first).values(), weights(second).values(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_training_ends_before_the_step_that_would_exceed_epsilon(make: Make) -> None:
    experiment = make(privacy={"noise_multiplier": 4.0, "epsilon": 0.4, "delta": 1e-3})
    record = fit(experiment)
    assert record.status == "exhausted"
    assert record.guarantee is not None and record.spent is not None
    assert 0 < record.spent.steps < 9 and record.spent.epsilon <= 0.4
    # One step more would have been too much.
    plan = replace(_plan(record), steps=record.spent.steps + 1)
    assert plan.epsilon() > 0.4
    assert (experiment.folder / "model.safetensors").exists()


def _plan(record: RunRecord) -> Any:
    from confide.privacy.plan import PrivacyPlan

    values = record.guarantee
    assert values is not None
    return PrivacyPlan(
        values["noise_multiplier"], values["sampling_rate"], values["steps"], values["delta"], values["units"]
    )


def test_not_even_one_step_fits(make: Make) -> None:
    experiment = make(privacy={"noise_multiplier": 4.0, "epsilon": 0.1, "delta": 1e-3})
    with pytest.raises(BudgetExhaustedError, match="one step spends"):
        fit(experiment)
    assert not experiment.folder.exists()


def test_the_ledgers_limit_refuses_before_anything_is_written(make: Make) -> None:
    fit(make("first"))
    with Ledger.open() as ledger:
        [name] = ledger.datasets()
        ledger.limit(name, ledger.spent(name, 1e-3).epsilon * 1.1, 1e-3)
    second = make("second")
    with pytest.raises(BudgetExhaustedError, match=r"steps are still affordable|not one step"):
        fit(second)
    assert not second.folder.exists()
    assert charged() == [9]


def test_a_limit_lowered_while_training_ends_the_run(make: Make) -> None:
    def lower() -> None:
        with Ledger.open() as ledger:
            [name] = ledger.datasets()
            ledger.limit(name, 0.2, 1e-3)

    experiment = make(training__steps=40)
    record = fit(experiment, listener=At(5, lower))
    assert record.status == "exhausted"
    assert record.spent is not None and 5 <= record.spent.steps < 40
    assert (experiment.folder / "model.safetensors").exists()


def test_a_finished_run_is_read_not_repeated(make: Make) -> None:
    first = fit(make())
    assert fit(make()) == first
    assert charged() == [9]


def test_fresh_moves_the_earlier_run_aside(make: Make) -> None:
    experiment = make()
    fit(experiment)
    fit(experiment, fresh=True)
    assert (experiment.folder.with_name("run.1") / "run.json").exists()
    assert charged() == [9, 9]


def test_another_experiment_of_the_same_name_is_refused(make: Make) -> None:
    fit(make(), listener=At(3, ctrl_c))
    with pytest.raises(RunError, match=r"training\.batch_size was 20, is 10"):
        fit(make(training__batch_size=10))
    # What changes neither model nor claim may change.
    assert fit(make(training__physical_batch_size=7)).status == "finished"


def test_adaptive_clipping_goes_on_with_the_bound_it_had_reached(make: Make) -> None:
    changed: dict[str, Any] = {"seed": 3, "privacy__clipping": {"kind": "adaptive", "bound": 0.5}}
    whole, halved = make("whole", **changed), make("halved", **changed)
    fit(whole)
    fit(halved, listener=At(4, ctrl_c))
    fit(halved)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(halved)[name]), name


def test_test_images_are_scored_at_every_evaluation_only_when_asked(make: Make) -> None:
    fit(make("once"))
    fit(make("always", evaluation__test="each-evaluation"))
    assert not history.load(make("once").folder).curve("accuracy", "test")
    assert len(history.load(make("always").folder).curve("accuracy", "test")) == len(
        history.load(make("always").folder).curve("accuracy")
    )
    never = fit(make("never", evaluation__test="never"))
    assert "test" not in never.metrics and not (make("never").folder / "predictions.npz").exists()


def test_initial_weights(make: Make, tmp_path: Path) -> None:
    fit(make("public", privacy="none"))
    start = make("public").folder / "model.safetensors"
    given = weights(make("public"))
    experiment = make("tuned", training__initial_weights=str(start), training__optimizer={"lr": 1e-12})
    fit(experiment)
    for name, tensor in weights(experiment).items():
        torch.testing.assert_close(tensor, given[name], atol=1e-6, rtol=0)


def test_weights_for_colour_start_a_network_for_gray_and_are_declared_public(
    make: Make, tmp_path: Path
) -> None:
    from confide.models import ResNet18

    # Widths of 8 at least: with fewer input channels, the backward pass of torch 2.13's own 1×1 convolution
    # of stride 2 writes out of bounds where images are channels-last, and the process aborts.
    colour = ResNet18(in_channels=3, classes=7, widths=(8, 8, 8, 8), stem="small").state_dict()
    save_file(colour, tmp_path / "public.safetensors")
    experiment = make(
        "gray",
        model={"name": "resnet18", "widths": [8, 8, 8, 8], "stem": "small"},
        training__initial_weights=str(tmp_path / "public.safetensors"),
        training__optimizer={"lr": 1e-12},
        training__ema=0.0,
        privacy="none",
    )
    record = fit(experiment)
    assert "initial weights: public.safetensors" in record.declared_public
    found = weights(experiment)
    torch.testing.assert_close(found["conv1.weight"], colour["conv1.weight"].sum(1, keepdim=True))
    torch.testing.assert_close(found["layer4.1.conv2.weight"], colour["layer4.1.conv2.weight"])
    assert found["fc.weight"].shape == (2, 8)


def test_weights_of_another_network_are_refused(make: Make, tmp_path: Path) -> None:
    save_file({"stem.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="none of the initial weights fits"):
        fit(make("other", training__initial_weights=str(tmp_path / "other.safetensors")))


def test_a_model_that_mixes_samples_is_refused_by_name(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    from confide.models import registry

    def mixing(*, in_channels: int, classes: int) -> nn.Module:
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
        return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), head)

    monkeypatch.setitem(registry._MODELS, "mixing", mixing)
    experiment = make(model={"name": "mixing"})
    with pytest.raises(ModelError, match="BatchNorm"):
        fit(experiment)
    assert not experiment.folder.exists() and charged() == []


def test_stages_thaw_parameters_at_their_epoch_and_after_a_resume(make: Make) -> None:
    # 60 units, batch 20: epoch 1 begins with step 4.
    stages = [{"epoch": 0, "train": ["classifier"]}, {"epoch": 1, "train": ["*"]}]
    changed: dict[str, Any] = {"seed": 5, "training__stages": stages, "training__ema": 0}
    started = fit(make("start", seed=5, privacy="none", training__optimizer={"lr": 1e-30}))
    whole, halved = make("whole", **changed), make("halved", **changed)
    fit(whole)
    fit(halved, listener=At(3, ctrl_c))
    from confide.experiments.snapshot import FOLDER
    from confide.training import checkpoint

    held, _ = checkpoint.load(halved.folder / FOLDER, checkpoint.checkpoint_key())
    initial = weights(make("start"))
    # Adam's rate of 1e-30 moves a bias of zero by 1e-30.
    moved = {n for n, t in initial.items() if not torch.allclose(t, held[f"model.{n}"], rtol=0, atol=1e-20)}
    assert started.status == "finished"
    assert moved and all(name.startswith("classifier") for name in moved)
    fit(halved)
    final = weights(halved)
    assert any(not torch.equal(final[name], initial[name]) for name in final if name.startswith("conv1"))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, final[name]), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"training__stages": [{"epoch": 0, "train": ["clasifier"]}]},
            "no parameter begins with 'clasifier'",
        ),
        ({"training__class_weights": [1.0, 2.0, 3.0]}, "3 class weights do not fit the 2 classes"),
        ({"training__class_weights": [1.0, 2.0], "training__loss": "dice"}, "takes no class weights"),
    ],
)
def test_stages_and_weights_that_do_not_fit(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(make(**changes))
    assert charged() == []


def test_class_weights_are_used_and_declared_public(make: Make) -> None:
    # All weight on one class: the other is hardly ever predicted.
    record = fit(make(privacy="none", training__class_weights=[1e-6, 1.0], training__steps=30))
    assert "class weights of the loss: 1e-06, 1" in record.declared_public
    run = load_run(make().folder)
    assert run.predictions is not None and run.predictions.probabilities is not None
    assert (run.predictions.probabilities.argmax(1) == 1).all()


def test_hardened_noise_costs_a_little_of_the_same_budget(make: Make) -> None:
    soft = fit(make("soft"))
    hard = fit(make("hard", privacy__hardened=True))
    assert soft.guarantee is not None and hard.guarantee is not None
    assert hard.status == "finished" and any("discrete" in text for text in hard.guarantee["assumptions"])
    # Discrete noise stands for Gaussian noise at a distance that is paid out of δ.
    assert soft.guarantee["epsilon"] <= hard.guarantee["epsilon"] <= soft.guarantee["epsilon"] * 1.01
    with pytest.raises(ConfigError, match="do not go together"):
        stages = [{"epoch": 0, "train": ["classifier"]}]
        fit(make("both", privacy__hardened=True, training__stages=stages))


@pytest.mark.parametrize("of", ["none", "validation", "train"])
def test_diagnostics_are_taken_only_when_asked_for_and_say_of_whom(make: Make, of: str) -> None:
    experiment = make(diagnostics={"of": of, "rows": 10})
    record = fit(experiment)
    lines = history.load(experiment.folder).diagnostics
    assert bool(lines) is (of != "none")
    assert all(line.public is (of == "validation") for line in lines)
    assert all(line.norm_counts is not None and sum(line.norm_counts) == 10 for line in lines)
    outside = any("outside the guarantee" in warning for warning in record.warnings)
    assert outside is (of == "train")


def test_the_record_of_a_running_run_claims_no_part_of_its_plan(make: Make) -> None:
    # Killed now, the run would leave this record, while the ledger goes on charging. It was stopped once, so
    # that something is spent already when it goes on.
    experiment = make()
    assert fit(experiment, listener=At(2, ctrl_c)).spent is not None
    seen: list[RunRecord] = []
    fit(experiment, listener=At(5, lambda: seen.append(RunRecord.load(experiment.folder))))
    assert [(record.status, record.spent) for record in seen] == [("running", None)]


@pytest.mark.parametrize("privacy", [{"noise_multiplier": 1.0, "delta": 1e-3}, "none"])
def test_training_in_bfloat16_moves_float32_weights_by_nearly_as_much(make: Make, privacy: Any) -> None:
    found: dict[str, torch.Tensor] = {}
    for precision in ("float32", "bfloat16"):
        experiment = make(
            f"run-{precision}",
            privacy=privacy,
            seed=1,
            training__precision=precision,
            training__steps=3,
            training__optimizer={"name": "sgd", "lr": 1e-3},
        )
        fit(experiment)
        assert {value.dtype for value in weights(experiment).values()} == {torch.float32}
        found[precision] = torch.cat([value.flatten() for value in weights(experiment).values()])
    gap = float((found["bfloat16"] - found["float32"]).norm() / found["float32"].norm())
    assert 1e-6 < gap < 0.02  # eight bits; not one seeded run twice


@pytest.mark.parametrize(
    ("changed", "rows", "fills"),
    [
        ({}, 32, True),
        (
            {"training__batch_size": 100, "training__augmentation": {"views": 5, "operations": ["flip"]}},
            60,
            True,
        ),
        ({"training__physical_batch_size": 8}, 8, True),
        ({"training__precision": "float32"}, 256, False),
        ({"privacy": "none"}, 256, False),
        ({"privacy": {"noise_multiplier": 4.0, "delta": 1e-3, "hardened": True}}, 256, False),
    ],
)
def test_private_steps_in_bfloat16_fill_their_physical_batches(
    make: Make, changed: dict[str, Any], rows: int, fills: bool
) -> None:
    """What a unit adds depends there on how many rows are computed together."""
    work = make_work(make(**({"training__precision": "bfloat16"} | changed)))
    assert (work.physical_batch_size, work.fill) == (rows, fills)


def test_a_private_run_in_bfloat16_computes_batches_of_one_length(make: Make) -> None:
    lengths: list[int] = []

    class Watched(Silent):
        def started(self, session: Any) -> None:
            self.model = session.trainer.model

        def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
            if number == 1:  # the first one also checks the model, on two units and on single rows
                first = next(m for m in self.model.modules() if isinstance(m, torch.nn.Conv2d))
                first.register_forward_pre_hook(watch)

    def watch(layer: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if layer.training:
            lengths.append(len(given[0]))

    experiment = make(training__precision="bfloat16", training__steps=8, training__batch_size=40)
    fit(experiment, listener=Watched())
    assert set(lengths) == {32}
    assert len(lengths) > 7  # of 80 expected rows a step
