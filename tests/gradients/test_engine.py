# SPDX-License-Identifier: Apache-2.0
"""The contract of `clipped_gradient`: bad input, non-finite units, precision, nothing left behind."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from confide.errors import ConfideError, InputError, LossError, ModelError, UnsupportedLayerError
from confide.gradients.engine import clipped_gradient
from confide.gradients.reference import per_sample_gradients

METHODS = ("auto", "book-keeping", "vmap", "loop")
every_method = pytest.mark.parametrize("method", METHODS)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 3)
    )


def images(rows: int = 5) -> Tensor:
    return torch.randn(rows, 3, 6, 6)


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).flatten(1).square().mean(1)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in other)


@every_method
@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda m, b: m(b).mean(), 'reduction="none"'),
        (lambda m, b: m(b), "one value per sample"),
        (lambda m, b: 3.0, "returned float"),
    ],
)
def test_a_loss_is_told_what_to_return(method: str, loss: Any, words: str) -> None:
    with pytest.raises(LossError, match=words):
        clipped_gradient(net(), loss, images(), clip_norm=1.0, method=method)


@every_method
def test_a_batch_of_none(method: str) -> None:
    model = net()
    out = clipped_gradient(model, squares, images(0), clip_norm=1.0, method=method)
    assert (out.norms.shape, out.losses.shape, out.factors.shape) == ((0,), (0,), (0, 1))
    for name, parameter in model.named_parameters():
        assert out.sums[name].shape == parameter.shape
        assert not out.sums[name].any()


@every_method
def test_a_batch_of_one(method: str) -> None:
    model, x = net(), images(1)
    gradients = per_sample_gradients(model, squares, x)
    out = clipped_gradient(model, squares, x, clip_norm=1e6, method=method)
    assert apart(out.sums, {name: value[0] for name, value in gradients.items()}) < 1e-5


@every_method
def test_no_trainable_parameter(method: str) -> None:
    with pytest.raises(ModelError, match="no trainable parameter"):
        clipped_gradient(net().requires_grad_(False), squares, images(), clip_norm=1.0, method=method)


@every_method
def test_a_loss_without_parameters_has_gradient_zero(method: str) -> None:
    out = clipped_gradient(net(), lambda m, b: b.flatten(1).sum(1), images(), clip_norm=1.0, method=method)
    assert not out.norms.any()
    assert not any(value.any() for value in out.sums.values())


@every_method
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("build", [net, lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 3))])
def test_a_non_finite_unit_adds_exactly_nothing(method: str, value: float, build: Any) -> None:
    model, x = build(), images()
    x[1] = value
    x[3, 0, 0, 0] = value
    out = clipped_gradient(model, squares, x, clip_norm=1.0, method=method)
    rest = clipped_gradient(model, squares, x[[0, 2, 4]], clip_norm=1.0, method=method)
    if value != 1e30:
        assert not out.factors[[1, 3]].any()
    good = out.factors[[0, 2, 4]]
    assert torch.allclose(good, rest.factors)
    assert all(total.isfinite().all() for total in out.sums.values())
    if value != 1e30:
        assert apart(out.sums, rest.sums) < 1e-6


@every_method
def test_one_bad_row_silences_its_whole_unit(method: str) -> None:
    model, x = net(), images()
    x[1] = float("nan")
    units = torch.tensor([0, 0, 1, 1, 2])
    out = clipped_gradient(model, squares, x, clip_norm=1.0, method=method, units=units)
    rest = clipped_gradient(model, squares, x[2:], clip_norm=1.0, method=method, units=units[2:])
    assert out.factors[0] == 0
    assert apart(out.sums, rest.sums) < 1e-6


@every_method
def test_a_non_finite_loss_silences_its_unit_even_without_a_gradient(method: str) -> None:
    x = images()
    x[2, 0, 0, 0] = 100.0

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return squares(model, batch) + torch.where(batch[:, 0, 0, 0] > 50, torch.inf, 0.0)

    out = clipped_gradient(net(), loss, x, clip_norm=1.0, method=method)
    assert out.factors[2] == 0
    assert bool((out.factors[[0, 1, 3, 4]] > 0).all())


@every_method
def test_batch_norm_is_refused_even_if_frozen(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).requires_grad_(False))
    with pytest.raises(UnsupportedLayerError, match=r"'1' is BatchNorm2d.*repair"):
        clipped_gradient(model, squares, images(), clip_norm=1.0, method=method)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.seen = self.seen + y.mean((0, 1, 2)).detach()
        return y


@every_method
def test_a_buffer_that_changes_is_refused(method: str) -> None:
    with pytest.raises(UnsupportedLayerError, match="'seen' changes"):
        clipped_gradient(Counting(), squares, images(), clip_norm=1.0, method=method)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("method", ["auto", "book-keeping", "loop"])
def test_an_exception_leaves_nothing_behind(error: type[BaseException], where: str, method: str) -> None:
    model, x = net(), images()
    before = clipped_gradient(model, squares, x, clip_norm=1.0, method=method)
    model[0].weight.grad = kept = torch.ones_like(model[0].weight)

    def hook(*_: object) -> None:
        raise error

    handle = (
        model[2].register_forward_hook(hook)
        if where == "forward"
        else model[2].register_full_backward_hook(hook)
    )
    with pytest.raises(error):
        clipped_gradient(model, squares, x, clip_norm=1.0, method=method)
    handle.remove()
    assert torch._C._len_torch_function_stack() == 0
    assert model[0].weight.grad is kept
    assert bool((kept == 1).all())
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert not any("forward" in vars(layer) for layer in model.modules())
    after = clipped_gradient(model, squares, x, clip_norm=1.0, method=method)
    assert apart(after.sums, before.sums) == 0


def test_arguments_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="one of clip_norm and clipping"):
        clipped_gradient(net(), squares, images(), clip_norm=None)
    with pytest.raises(InputError, match="physical batch size 0"):
        clipped_gradient(net(), squares, images(), clip_norm=1.0, physical_batch_size=0)
    with pytest.raises(InputError, match="unknown method"):
        clipped_gradient(net(), squares, images(), clip_norm=1.0, method="ghost")
    with pytest.raises(ConfideError, match="one integer per row"):
        clipped_gradient(net(), squares, images(), clip_norm=1.0, units=torch.zeros(2))


def test_one_engine_within_another_and_in_threads() -> None:
    model, other, x = net(), net(), images()

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        clipped_gradient(other, squares, batch, clip_norm=1.0)
        return squares(m, batch)

    alone = clipped_gradient(model, squares, x, clip_norm=1.0)
    assert apart(clipped_gradient(model, loss, x, clip_norm=1.0).sums, alone.sums) == 0
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: clipped_gradient(model, squares, x, clip_norm=1.0), range(8)):
            assert apart(out.sums, alone.sums) == 0


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant)
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool, agrees: Any) -> None:
    agrees(Checkpointed(reentrant), images())
    agrees(Checkpointed(reentrant), images(), method="loop")


def test_float32_is_as_exact_as_ordinary_autograd() -> None:
    """Ghost or not, an error of at most twice that of `backward` in float32, plus one rounding of the sum."""
    model, x = net(), images(8)
    exact = clipped_gradient(copy.deepcopy(model).double(), squares, x.double(), clip_norm=1e6, method="loop")
    plain = clipped_gradient(model, squares, x, clip_norm=1e6, method="loop")
    out = clipped_gradient(model, squares, x, clip_norm=1e6)
    for name, value in exact.sums.items():
        scale = float(value.abs().max()) + 1e-12
        allowed = 2 * float((plain.sums[name] - value).abs().max()) + 4e-7 * scale
        assert float((out.sums[name] - value).abs().max()) <= allowed, name
    assert torch.allclose(out.norms, exact.norms, rtol=2e-6)


def test_bfloat16_autocast() -> None:
    """bfloat16 keeps eight bits: relative errors of the layers' outputs near 2⁻⁸."""
    model, x = net(), images()
    exact = clipped_gradient(model, squares, x, clip_norm=1.0)

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return squares(m, batch).float()

    out = clipped_gradient(model, loss, x, clip_norm=1.0, method="book-keeping")
    assert out.norms.dtype == torch.float64
    assert {total.dtype for total in out.sums.values()} == {torch.float32}
    assert torch.allclose(out.norms, exact.norms, rtol=0.1)
    assert bool((out.norms * out.factors[:, 0] <= 1 + 1e-9).all())


def test_channels_last_and_compiled() -> None:
    model, x = net(), images()
    plain = clipped_gradient(model, squares, x, clip_norm=1.0)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    out = clipped_gradient(
        turned, squares, x.contiguous(memory_format=torch.channels_last), clip_norm=1.0, method="book-keeping"
    )
    assert apart(out.sums, plain.sums) < 1e-6
    compiled = torch.compile(model, backend="eager")
    out = clipped_gradient(compiled, squares, x, clip_norm=1.0)
    found = {name.removeprefix("_orig_mod."): value for name, value in out.sums.items()}
    assert apart(found, plain.sums) < 1e-6


def test_single_rows_are_laid_out_in_full() -> None:
    # In this layout torch's GroupNorm would end the process.
    images = torch.empty_strided((3, 1, 6, 6), (36, 1, 6, 1)).normal_()
    seen: list[tuple[int, ...]] = []

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        seen.append(x.stride())
        return model(x).square().flatten(1).sum(1)

    clipped_gradient(nn.Conv2d(1, 2, 3), loss, images, clip_norm=1.0, method="loop")
    assert len(seen) >= 3 and set(seen) == {(36, 36, 6, 1)}
