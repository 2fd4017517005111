# SPDX-License-Identifier: Apache-2.0
"""private_steps from end to end, against gradients taken one sample at a time by autograd."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.recording import CLASSES, Case, Rows, losses, small_model
from torch import Tensor, nn

from confide.data.augment import Augmentation
from confide.errors import BudgetExhaustedError, InputError, LossError
from confide.mechanisms.clipping import AdaptiveClipping, AutomaticClipping, FlatClipping, PerLayerClipping
from confide.mechanisms.keys import RunKey
from confide.mechanisms.noise import GaussianNoise
from confide.privacy.plan import PrivacyPlan
from confide.training.mechanism import PrivateMechanism
from confide.training.physical import Work
from confide.training.step import private_steps
from confide.training.views import uniforms

PLAN = PrivacyPlan(1.0, 0.25, 10, 1e-5, 20)


def data(units: int = 20) -> tuple[Tensor, Tensor]:
    rows = Rows.drawn(units)
    return rows.images, rows.targets


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])


def one_by_one(model: nn.Module, images: Tensor, targets: Tensor, numbers: Any, kind: Any) -> Tensor:
    """Mean gradient of one unit's views, by a backward pass for each."""
    total = torch.zeros_like(weights(model))
    count = 0
    for row, (image, target) in enumerate(zip(images, targets, strict=True)):
        for view in range(1 if kind is None else numbers.shape[1]):
            picture, wanted = image[None], target[None]
            if kind is not None:
                picture, wanted = kind(picture, wanted, torch.from_numpy(numbers[row, view][None]))
            model.zero_grad()
            losses(model, (picture, wanted)).sum().backward()
            total += torch.cat([p.grad.reshape(-1) for p in model.parameters()])
            count += 1
    model.zero_grad()
    return total / count


CASES = {
    "plain": Case(),
    "views": Case(views=3, physical=8),
    "patient": Case(per_unit=4, physical=5),
    "patient-views": Case(per_unit=3, views=2),
    "hardened": Case(hardened=True, per_unit=2, views=2),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sum_is_that_of_each_units_mean_gradient_clipped_once(name: str) -> None:
    case = replace(CASES[name], steps=3)
    key = RunKey.from_os()
    rows = Rows.drawn(case.units, case.per_unit)
    tape, _ = case.run(rows, key, steps=1)
    model = small_model()
    seed = next(entry[5] for entry in tape.controls if entry[0] == "release")
    expected = torch.zeros(weights(model).numel(), dtype=torch.float64)
    loss, kind = 0.0, case.augmentation
    for unit in tape.chosen[0]:
        mine = np.flatnonzero(rows.units == unit)
        numbers = uniforms(seed, mine, case.views, kind.draws) if kind else None
        gradient = one_by_one(model, rows.images[mine], rows.targets[mine], numbers, kind).double()
        expected += gradient * min(1.0, 0.5 / float(gradient.norm()))
        if kind is None:
            loss += min(4.0, float(losses(model, (rows.images[mine], rows.targets[mine])).detach().mean()))
    assert torch.allclose(tape.inputs[0]["gradient"], expected, atol=3e-6)
    if kind is None:
        assert float(tape.inputs[0]["loss"]) == pytest.approx(loss, abs=1e-4)


def test_a_run_takes_exactly_the_plans_steps_and_divides_by_a_constant() -> None:
    model = small_model()
    found = list(private_steps(model, sgd(model), data(), PLAN, loss=losses, clip_norm=1.0))
    assert [step.number for step in found] == list(range(1, 11))
    assert {step.batch_size for step in found} == {5.0}
    assert found[-1].epsilon == PLAN.epsilon()
    assert found[0].epsilon == PLAN.epsilon(steps=1)
    assert all(step.loss is not None and step.unclipped is None for step in found)


def test_the_update_is_noisy_sum_over_expected_batch_size() -> None:
    """With nearly no noise, the update of a full batch is the clipped sum over the declared q·n."""
    plan = PrivacyPlan(1e-3, 1.0, 1, 1e-5, 10)  # declared n = 10; there are 20
    model, (images, targets) = small_model(), data()
    before = weights(model)
    expected = torch.zeros_like(before)
    for i in range(20):
        gradient = one_by_one(model, images[i : i + 1], targets[i : i + 1], None, None)
        expected += gradient * min(1.0, 0.5 / float(gradient.norm()))
    list(
        private_steps(
            model, sgd(model, 1.0), (images, targets), plan, loss=losses, clip_norm=0.5, release_loss=False
        )
    )
    # Five standard deviations of the noise, 0.0005/10 a coordinate: false alarm 2e-4 at most over 119.
    assert (before - weights(model) - expected / 10).abs().max() < 5 * 5e-5 + 1e-6


def test_empty_batches_are_steps_of_noise_alone() -> None:
    """q = 1e-9: nobody is ever sampled (false alarm 4e-7), and all 20 steps are noisy updates."""
    plan = PrivacyPlan(1.0, 1e-9, 20, 1e-5, 20)
    model = small_model()
    last, moves = weights(model), []
    for step in private_steps(model, sgd(model, 1.0), data(), plan, loss=losses, clip_norm=1.0):
        assert step.batch_size == pytest.approx(2e-8)
        moves.append((weights(model) - last) * step.batch_size)
        last = weights(model)
    assert len(moves) == 20
    drawn = torch.stack(moves)
    # 20 x 119 draws: relative deviation of the variance 2.9 %; 20 % is 6.9 of them. (The weights have grown
    # to 1e8, so that differences of float32 carry a relative error of 1e-7 each.)
    assert drawn.var() == pytest.approx(1.0, rel=0.2)
    assert min(float(move.abs().max()) for move in moves) > 0


@pytest.mark.parametrize("physical", [1, 3, 7])
def test_physical_batches_change_speed_only(physical: int) -> None:
    case, key = Case(per_unit=3, views=2), RunKey.from_os()
    rows = Rows.drawn(case.units, case.per_unit)
    whole, model = case.run(rows, key, steps=3)
    split, other = replace(case, physical=physical).run(rows, key, steps=3)
    assert len(whole.inputs) == len(split.inputs) == 3
    assert torch.allclose(weights(model), weights(other), atol=1e-5)
    assert [c for c in whole.controls if c[0] == "charge"] == [c for c in split.controls if c[0] == "charge"]


def test_views_of_an_image_differ_and_are_new_in_every_step() -> None:
    seen: list[Tensor] = []

    def watching(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch[0].clone())
        return losses(model, batch)

    model = small_model()
    plan = PrivacyPlan(1.0, 1.0, 2, 1e-5, 1)
    augmentation = Augmentation.of(["rotate", "brightness"])
    list(
        private_steps(
            model,
            sgd(model),
            (torch.randn(1, 1, 6, 6), torch.zeros(1, dtype=torch.int64)),
            plan,
            loss=watching,
            clip_norm=1.0,
            views=4,
            augmentation=augmentation,
            work=Work(method="loop"),
        )
    )
    flat = torch.cat([images.reshape(len(images), -1) for images in seen])
    assert len(flat.unique(dim=0)) == 8  # four views in each of two steps


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e38])
def test_a_record_that_is_not_finite_contributes_zero_without_a_sign(
    bad: float, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    images, targets = data(8)
    case = Case(units=8, steps=4)
    key, index = RunKey.from_os(), np.arange(8)
    clean, _ = case.run(Rows(images[:7], targets[:7], index[:7]), key)
    images[7] = bad
    dirty, _ = case.run(Rows(images, targets, index), key, script=clean.outputs)
    for a, b in zip(clean.inputs, dirty.inputs, strict=True):
        assert torch.allclose(a["gradient"], b["gradient"], atol=1e-6)
        assert torch.isfinite(b["gradient"]).all() and torch.isfinite(b["loss"]).all()
    assert clean.controls == dirty.controls
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_patient_with_many_rows_counts_as_much_as_one_with_a_single_row() -> None:
    """One patient of 40 equal rows, one of a single such row: both contribute the same clipped gradient."""
    image = torch.randn(1, 1, 6, 6)
    inputs = []
    for count in (40, 1):
        rows = Rows(
            image.repeat(count, 1, 1, 1),
            torch.ones(count, dtype=torch.int64),
            np.zeros(count, np.int64),
        )
        case = Case(per_unit=2, units=1, physical=8)
        model = small_model()
        plan = replace(case.plan(model), sampling_rate=1.0, sampling=None, steps=1)  # type: ignore[arg-type]
        del model
        tape, _ = _with_plan(case, plan).run(rows, RunKey.from_os())
        inputs.append(tape.inputs[0]["gradient"])
    assert torch.allclose(*inputs, atol=1e-6)
    assert inputs[0].norm() <= 0.5 * (1 + 1e-6)


def _with_plan(case: Case, plan: PrivacyPlan) -> Case:
    class Fixed(Case):
        def plan(self, model: nn.Module) -> PrivacyPlan:
            return plan

    return Fixed(**{name: getattr(case, name) for name in case.__dataclass_fields__})


def test_rows_beyond_the_most_per_unit_are_left_out() -> None:
    seen: list[int] = []

    def counting(model: nn.Module, batch: Any) -> Tensor:
        seen.append(len(batch[0]))
        return losses(model, batch)

    model = small_model()
    images = torch.randn(30, 1, 6, 6)
    targets = torch.randint(0, CLASSES, (30,))
    plan = PrivacyPlan(1.0, 1.0, 1, 1e-5, 3)
    list(
        private_steps(
            model,
            sgd(model),
            (images, targets),
            plan,
            loss=counting,
            clip_norm=1.0,
            units=np.repeat([0, 1, 2], 10),
            work=Work(max_rows_per_unit=4, method="vmap"),
        )
    )
    assert max(seen) <= 12 and sum(seen) >= 1


class Spy(torch.optim.SGD):
    """Notes every gradient at the moment of the update, and that no closure recomputes one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[list[Tensor | None]] = []

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        self.seen.append(
            [None if p.grad is None else p.grad.clone() for g in self.param_groups for p in g["params"]]
        )
        super().step()


def test_the_optimizer_sees_privatised_gradients_and_nothing_else() -> None:
    """A raw gradient left on any parameter, frozen ones included, never reaches the optimizer."""
    model = small_model()
    first = next(iter(model.parameters()))
    spy = Spy(model.parameters(), lr=0.1)
    losses(model, data()).sum().backward()  # somebody's ordinary backward pass
    first.requires_grad_(False)
    start = first.detach().clone()
    found = private_steps(model, spy, data(), replace(PLAN, steps=3), loss=losses, clip_norm=1.0)
    for _ in found:
        assert all(p.grad is None for p in model.parameters())
        losses(model, data()).sum().backward()  # between two steps, too
        next(p for p in model.parameters() if p.requires_grad)
    assert torch.equal(first, start)
    for gradients in spy.seen:
        assert gradients[0] is None
        # Noise of 1·C/5 a coordinate, a clipped sum of norm about 12·C/5 at most; raw sums have norm 10³.
        assert all(g is not None and float(g.norm()) < 20 for g in gradients[1:])


def test_what_the_optimizer_gets_is_what_the_mechanism_released() -> None:
    case = Case(steps=2)
    key, rows = RunKey.from_seed(5), Rows.drawn(12)
    tape, _ = case.run(rows, key)
    model = small_model()
    spy = Spy(model.parameters(), lr=0.05, momentum=0.9)
    plan = case.plan(model)
    list(private_steps(model, spy, (rows.images, rows.targets), plan, loss=losses, clip_norm=0.5, key=key))
    for got, released in zip(spy.seen, tape.outputs, strict=True):
        for one, (_, other) in zip(got, released.gradients.items(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "clipping",
    [AdaptiveClipping(1.0), FlatClipping(1.0), AutomaticClipping(1.0)],
    ids=lambda c: type(c).__name__,
)
def test_what_is_released_besides_the_gradient_is_in_the_account(clipping: Any) -> None:
    """1/z² of the parts sums to 1/σ² of the plan: Gaussian mechanisms in one vector."""
    model = small_model()
    steps = list(private_steps(model, sgd(model), data(), PLAN, loss=losses, clipping=clipping))
    plan = steps[0].plan
    names = {release.name for release in plan.releases}
    assert names == ({"loss", "clip-fraction"} if isinstance(clipping, AdaptiveClipping) else {"loss"})
    parts = plan.gradient_noise_multiplier**-2 + sum(r.noise_multiplier**-2 for r in plan.releases)
    assert parts <= PLAN.noise_multiplier**-2 * (1 + 1e-12)
    assert plan.epsilon() == PLAN.epsilon()
    assert (steps[0].unclipped is not None) == isinstance(clipping, AdaptiveClipping)
    assert all(name in str(plan.guarantee()) for name in names)


def test_adaptive_clipping_follows_the_quantile_by_released_values_only() -> None:
    model = small_model()
    clipping = AdaptiveClipping(1e-3, quantile=0.5, rate=1.0)
    plan = PrivacyPlan(1.0, 1.0, 12, 1e-5, 20)
    case = replace(Case(units=20, steps=12), clipping=clipping)
    tape, _ = _with_plan(case, replace(case.plan(model), sampling_rate=1.0, sampling=plan.sampling)).run(
        Rows.drawn(20), RunKey.from_os()
    )
    bounds = [entry[2].bound for entry in tape.controls if entry[0] == "release"]
    for now, after, released in zip(bounds, bounds[1:], tape.outputs, strict=False):
        share = min(1.0, max(0.0, released.unclipped))
        assert after == pytest.approx(now * np.exp(-(share - 0.5)))
    assert bounds[-1] > bounds[0]


def test_a_resumed_run_takes_only_the_steps_that_are_left() -> None:
    charged: list[int] = []

    class Charge:
        def charge(self, step: int) -> None:
            charged.append(step)

    model = small_model()
    steps = private_steps(
        model, sgd(model), data(), PLAN, loss=losses, clip_norm=1.0, first_step=7, charge=Charge()
    )
    assert [step.number for step in steps] == [8, 9, 10]
    assert charged == [7, 8, 9]
    assert not list(private_steps(model, sgd(model), data(), PLAN, loss=losses, clip_norm=1.0, first_step=10))
    with pytest.raises(InputError, match="first step"):
        private_steps(model, sgd(model), data(), PLAN, loss=losses, clip_norm=1.0, first_step=11)


def test_a_refused_charge_stops_before_anything_is_computed() -> None:
    model = small_model()
    before = weights(model)

    class Empty:
        def charge(self, step: int) -> None:
            raise BudgetExhaustedError("nothing left")

    def never(model: nn.Module, batch: Any) -> Tensor:
        raise AssertionError("data were read")

    # Under this key the first batch is not empty, so a step that went on would read data.
    key = RunKey.from_seed(0)
    steps = private_steps(model, sgd(model), data(), PLAN, loss=never, clip_norm=1.0, key=key, charge=Empty())
    with pytest.raises(BudgetExhaustedError):
        list(steps)
    assert torch.equal(weights(model), before)


def test_every_run_and_every_step_has_noise_of_its_own() -> None:
    """Two runs from the same start, and two steps of one run: noise correlation below 5/√d (6e-7 each)."""
    plan = PrivacyPlan(1.0, 1e-9, 2, 1e-5, 20)
    moves = []
    for _ in range(2):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 600))
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        last = weights(model)
        optimizer = sgd(model, 1e-8)
        for _ in private_steps(model, optimizer, data(), plan, loss=losses, clip_norm=1.0):
            moves.append(weights(model) - last)
            last = weights(model)
    table = torch.corrcoef(torch.stack(moves)).fill_diagonal_(0)
    assert table.abs().max() < 5 / np.sqrt(len(moves[0]))


def test_noise_drawn_ahead_is_the_same_noise() -> None:
    key, rows = RunKey.from_seed(11), data()
    ends = []
    for ahead in (False, True):
        model = small_model()
        work = Work(noise_ahead=ahead)
        steps = private_steps(
            model, sgd(model), rows, PLAN, loss=losses, clip_norm=1.0, key=key, work=work, first_step=2
        )
        list(steps)
        ends.append(weights(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize("per_unit", [1, 2])
@pytest.mark.parametrize("views", [1, 3])
def test_filled_physical_batches_train_the_same_weights(per_unit: int, views: int) -> None:
    ends: list[Tensor] = []
    units = None if per_unit == 1 else np.repeat(np.arange(20), per_unit)
    for fill in (False, True):
        model = small_model()
        steps = private_steps(
            model,
            sgd(model),
            data(20 * per_unit),
            PLAN,
            loss=losses,
            clip_norm=1.0,
            units=units,
            views=views,
            augmentation=Augmentation.of(("flip",)),
            key=RunKey.from_seed(11),
            work=Work(physical_batch_size=7, fill=fill),
        )
        list(steps)
        ends.append(weights(model))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_noise_is_never_drawn_before_its_step_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int]] = []
    original = PrivateMechanism._stream

    def watched(self: PrivateMechanism, step: int):
        events.append(("drawn", step))
        return original(self, step)

    class Book:
        def charge(self, step: int) -> None:
            events.append(("charged", step))

    monkeypatch.setattr(PrivateMechanism, "_stream", watched)
    model = small_model()
    list(
        private_steps(
            model,
            sgd(model),
            data(),
            PLAN,
            loss=losses,
            clip_norm=1.0,
            work=Work(noise_ahead=True),
            charge=Book(),
        )
    )
    assert events == [(what, step) for step in range(PLAN.steps) for what in ("charged", "drawn")]


def test_an_abandoned_run_stops_its_thread() -> None:
    import threading

    model = small_model()
    steps = private_steps(
        model, sgd(model), data(), PLAN, loss=losses, clip_norm=1.0, work=Work(noise_ahead=True)
    )
    next(steps)
    assert any(t.name.startswith("confide-noise") for t in threading.enumerate())
    del steps
    gc.collect()
    assert not any(t.name.startswith("confide-noise") for t in threading.enumerate())


def test_hardened_steps_release_multiples_of_the_grid_and_learn() -> None:
    from confide.training.integers import released_numbers

    model = small_model()
    plan = replace(PLAN, integers=released_numbers(model, 0), sampling_rate=1.0, sampling=None, steps=2)  # type: ignore[arg-type]
    spy = Spy(model.parameters(), lr=0.1)
    list(private_steps(model, spy, data(), plan, loss=losses, clip_norm=1.0, release_loss=False))
    spacing = plan.gradient_noise_multiplier / 2**24
    for gradients in spy.seen:
        grid = torch.cat([g.double().reshape(-1) for g in gradients]) * plan.expected_batch_size / spacing
        # float32 rounds a gradient of about 2²⁴ grid steps to a whole number of halves.
        assert (grid - grid.round()).abs().max() <= 2.0
        assert grid.abs().max() > 1000
    with pytest.raises(InputError, match="integers"):
        private_steps(model, sgd(model), data(), replace(plan, integers=7), loss=losses, clip_norm=1.0)


def test_per_layer_clipping_states_the_whole_sensitivity() -> None:
    names = [name for name, _ in small_model().named_parameters()]
    case = Case(clipping=PerLayerClipping.even(0.5, names))
    tape, _ = case.run(Rows.drawn(12), RunKey.from_os(), steps=1)
    entry = next(c for c in tape.controls if c[0] == "release")
    assert entry[2].sensitivity == pytest.approx(0.5)
    assert GaussianNoise(entry[4] * entry[2].sensitivity).stddev >= 2.0 * 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of clip_norm and clipping"),
        ({"clip_norm": 1.0, "clipping": FlatClipping(1.0)}, "one of clip_norm and clipping"),
        ({"clip_norm": -1.0}, "clip norm"),
        ({"clip_norm": 1.0, "views": 2}, "augmentation"),
        ({"clip_norm": 1.0, "views": 0}, "views"),
        ({"clip_norm": 1.0, "first_step": -1}, "first step"),
    ],
)
def test_contradicting_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    model = small_model()
    with pytest.raises(InputError, match=message):
        private_steps(model, sgd(model), data(), PLAN, loss=losses, **given)


def test_a_mean_loss_is_refused() -> None:
    model = small_model()
    plan = PrivacyPlan(1.0, 1.0, 1, 1e-5, 20)

    def mean(model: nn.Module, batch: Any) -> Tensor:
        return losses(model, batch).mean()

    with pytest.raises(LossError, match="reduction"):
        list(private_steps(model, sgd(model), data(), plan, loss=mean, clip_norm=1.0))
