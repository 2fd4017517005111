# SPDX-License-Identifier: Apache-2.0
"""Whatever precision a user allows the model, nobody adds more than the clip norm.

The rows of a batch are all the same, and clipped far below their norms: the sum's norm must be B·C, whichever
gradient the model's precision gives. Products rounded to bfloat16 or TF32 miss that by 1e-4 to 3e-3, float32
by 1e-7.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient
from confide.gradients.precision import full_precision
from confide.gradients.tuning import kernels
from confide.models import ResNet9
from confide.training.losses import cross_entropy, shortened

CLIP_NORM, ROWS = 0.01, 3
ONEDNN: Any = torch.backends.mkldnn


@contextmanager
def autocast() -> Generator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


@contextmanager
def short_products() -> Generator[None]:
    torch.set_float32_matmul_precision("medium")
    ONEDNN.conv.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        ONEDNN.conv.fp32_precision = "none"


MODES: dict[str, Any] = {"float32": nullcontext, "autocast": autocast, "short": short_products}


def nets() -> list[nn.Module]:
    torch.manual_seed(0)
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 300), nn.ReLU(), nn.Linear(300, 8))
    return [perceptron, ResNet9(in_channels=3, classes=8, widths=(32, 64, 64))]


def excess(sums: dict[str, Tensor]) -> float:
    """By how much the sum of equal rows is longer or shorter than B·C, relatively."""
    norm = sum(float(total.double().square().sum()) for total in sums.values()) ** 0.5
    return abs(norm / (ROWS * CLIP_NORM) - 1)


@pytest.mark.parametrize(
    ("method", "kernel"),
    [("book-keeping", "ghost"), ("book-keeping", "unfold"), ("loop", "model"), ("vmap", "model")],
)
@pytest.mark.parametrize("mode", list(MODES))
def test_no_unit_adds_more_than_the_clip_norm(method: str, kernel: str, mode: str) -> None:
    for model in nets():
        for seed in range(3):
            one = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            batch = (one.repeat(ROWS, 1, 1, 1), torch.zeros(ROWS, dtype=torch.int64))
            with MODES[mode](), kernels(kernel):
                out = clipped_gradient(model, cross_entropy, batch, clip_norm=CLIP_NORM, method=method)
            assert bool((out.norms > 2 * CLIP_NORM).all())
            assert excess(out.sums) < 1e-6, (type(model).__name__, seed)


@pytest.mark.parametrize("kernel", ["loop", "fold", "unfold", "group"])
def test_nor_does_a_unit_of_several_rows(kernel: str) -> None:
    batch = (torch.rand(1, 3, 16, 16).repeat(5, 1, 1, 1), torch.zeros(5, dtype=torch.int64))
    units = torch.tensor([0, 0, 1, 2, 2])
    for model in nets():
        with autocast(), kernels(kernel):
            out = clipped_gradient(
                model, cross_entropy, batch, clip_norm=CLIP_NORM, units=units, method="book-keeping"
            )
        assert len(out.norms) == 3 == ROWS
        assert excess(out.sums) < 1e-6


def test_the_products_of_the_modes_are_short() -> None:
    """The modes above do something on this machine, so the test above is not idle."""
    a, b = torch.rand(64, 2304), torch.rand(2304, 64)
    exact = (a.double() @ b.double()).float()
    with autocast():
        assert float(((a @ b).float() - exact).abs().max()) > 0.1


def test_full_precision_is_full_and_leaves_what_was_set() -> None:
    a, b = torch.rand(64, 2304), torch.rand(2304, 64)
    exact = (a.double() @ b.double()).float()
    with autocast(), short_products():
        with full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert ONEDNN.conv.fp32_precision == "ieee"
            assert torch.allclose(a @ b, exact, rtol=1e-5)
        assert torch.get_float32_matmul_precision() == "medium"
        assert ONEDNN.conv.fp32_precision == "bf16"
        assert torch.is_autocast_enabled("cpu")


def test_a_switch_for_all_operations_stays_one() -> None:
    before = torch._C._get_fp32_precision_getter("mkldnn", "all")  # pyright: ignore
    torch._C._set_fp32_precision_setter("mkldnn", "all", "bf16")  # pyright: ignore
    try:
        with full_precision(torch.device("cpu")):
            assert ONEDNN.conv.fp32_precision == "ieee"
        assert ONEDNN.conv.fp32_precision == "bf16"
    finally:
        torch._C._set_fp32_precision_setter("mkldnn", "all", before)  # pyright: ignore
    assert ONEDNN.conv.fp32_precision == before


def test_a_shortened_loss_takes_the_fast_way_and_is_as_near_as_ordinary_autocast() -> None:
    model = nets()[1]
    seen: list[torch.dtype] = []
    layer = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    layer.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    batch = (torch.rand(6, 3, 16, 16), torch.arange(6) % 3)
    exact = clipped_gradient(model, cross_entropy, batch, clip_norm=1e9)
    assert set(seen) == {torch.float32}
    seen.clear()
    out = clipped_gradient(model, shortened(cross_entropy), batch, clip_norm=1e9)
    assert set(seen) == {torch.bfloat16} and out.fallbacks == ()
    assert {total.dtype for total in out.sums.values()} == {torch.float32}

    with torch.autocast("cpu", torch.bfloat16):
        whole = cross_entropy(model, batch).sum()
    names = [name for name, _ in model.named_parameters()]
    torchs = dict(zip(names, torch.autograd.grad(whole, list(model.parameters())), strict=True))

    def gap(sums: dict[str, Tensor]) -> float:
        return sum(float((sums[name] - value).square().sum()) for name, value in exact.sums.items()) ** 0.5

    assert 0 < gap(out.sums) < 1.5 * gap(torchs)


@pytest.mark.parametrize("kernel", ["ghost", "unfold"])
def test_float64_stays_float64_under_autocast(kernel: str) -> None:
    """As in torch, whose autocast leaves it alone."""
    model = nets()[1].double()
    batch = (torch.rand(4, 3, 16, 16, dtype=torch.float64), torch.arange(4) % 3)
    with kernels(kernel):
        exact = clipped_gradient(model, cross_entropy, batch, clip_norm=1.0, method="book-keeping")
        with autocast():
            out = clipped_gradient(model, cross_entropy, batch, clip_norm=1.0, method="book-keeping")
    for name, value in exact.sums.items():
        torch.testing.assert_close(out.sums[name], value, rtol=1e-9, atol=1e-12)
