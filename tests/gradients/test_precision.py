# SPDX-License-Identifier: Apache-2.0
"""Whatever precision a user allows the model, nobody adds more than the clip norm.

The rows of a batch are all the same, and clipped far below their norms: the sum's norm must be B·C, whichever
gradient the model's precision gives. Products rounded by autocast miss that by 3e-4 to 3e-3, convolutions in
oneDNN's bfloat16 mode by 4e-5; float32 by 1e-7.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient
from confide.gradients.precision import full_precision
from confide.gradients.rules import rule
from confide.gradients.tuning import kernels
from confide.models import ResNet9
from confide.training.losses import cross_entropy, shortened

CLIP_NORM, ROWS = 0.01, 3
CPU = torch.device("cpu")
ONEDNN: Any = torch.backends.mkldnn
BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
TILES = (
    torch.cpu._is_amx_tile_supported()
)  # without them oneDNN computes float32 in full whatever it is allowed


@contextmanager
def autocast() -> Generator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


@contextmanager
def short_products() -> Generator[None]:
    before = ONEDNN.matmul.fp32_precision, ONEDNN.conv.fp32_precision
    ONEDNN.matmul.fp32_precision = ONEDNN.conv.fp32_precision = "bf16"
    try:
        yield
    finally:
        ONEDNN.matmul.fp32_precision, ONEDNN.conv.fp32_precision = before


Mode = Callable[[], AbstractContextManager[None]]


class Tokens(nn.Module):
    """Scores of the mean of linear maps of an image's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(48, 300), nn.Linear(300, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2).flatten(2)  # (B, 16, 48)
        return self.outer(torch.relu(self.inner(tokens)).mean(1))


def nets() -> list[nn.Module]:
    torch.manual_seed(0)
    steerable = ResNet9(in_channels=3, classes=8, widths=(8, 16, 16), group="C8", multiplicity="parameters")
    return [Tokens(), ResNet9(in_channels=3, classes=8, widths=(32, 64, 64)), steerable]


def excess(sums: dict[str, Tensor]) -> float:
    """By how much the sum of equal rows is longer than B·C, relatively; shorter counts a tenth, for ghost
    norms are rounded up by 4e-6."""
    norm = sum(float(total.double().square().sum()) for total in sums.values()) ** 0.5
    more = norm / (ROWS * CLIP_NORM) - 1
    return more if more > 0 else -more / 10


BOOK = "book-keeping"


@pytest.mark.parametrize(
    ("mode", "method", "kernel"),
    [
        (nullcontext, BOOK, "ghost"),
        (autocast, BOOK, "ghost"),
        (autocast, BOOK, "unfold"),
        (autocast, "loop", "model"),
        (autocast, "vmap", "model"),
        # Only convolutions are large enough here for oneDNN to shorten.
        (short_products, BOOK, "ghost"),
        (nullcontext, BOOK, "spectral"),
        (autocast, BOOK, "spectral"),
        (short_products, BOOK, "spectral"),
    ],
)
def test_no_unit_adds_more_than_the_clip_norm(mode: Mode, method: str, kernel: str) -> None:
    for model in nets():
        for seed in range(3):
            one = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            batch = (one.repeat(ROWS, 1, 1, 1), torch.zeros(ROWS, dtype=torch.int64))
            with mode(), kernels(kernel):
                out = clipped_gradient(model, cross_entropy, batch, clip_norm=CLIP_NORM, method=method)
            assert bool((out.norms > 2 * CLIP_NORM).all())
            assert excess(out.sums) < 1e-6, (type(model).__name__, seed)


@pytest.mark.parametrize("kernel", ["loop", "fold", "blocks", "unfold", "group"])
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


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(autocast, marks=pytest.mark.skipif(not BFLOAT16, reason="no products of bfloat16 here")),
        pytest.param(short_products, marks=pytest.mark.skipif(not TILES, reason="no matrix tiles here")),
    ],
)
def test_full_precision_is_full(mode: Mode) -> None:
    """And the modes above do something on this machine, so the tests above are not idle."""
    a, b = torch.rand(256, 2304), torch.rand(2304, 256)
    x, w = torch.rand(8, 64, 28, 28), torch.rand(64, 64, 3, 3)
    exact = (a.double() @ b.double()).float(), nn.functional.conv2d(x.double(), w.double()).float()

    def error() -> list[float]:
        found = a @ b, nn.functional.conv2d(x, w)
        return [float((y - e).norm() / e.norm()) for y, e in zip(found, exact, strict=True)]

    with mode():
        assert min(error()) > 1e-5
        with full_precision(CPU):
            assert max(error()) < 1e-6
        assert min(error()) > 1e-5
    assert max(error()) < 1e-6


_SWITCHES = """
import torch
from confide.gradients.precision import full_precision
mkldnn, cuda, cudnn = torch.backends.mkldnn, torch.backends.cuda, torch.backends.cudnn
def table():
    return [s.fp32_precision for s in (mkldnn.matmul, mkldnn.conv, cuda.matmul, cudnn.conv)]
{setting}
before = table()
assert before != ["none", "none", "none", "none"], before
for kind, own in (("cpu", slice(0, 2)), ("cuda", slice(2, 4))):
    with full_precision(torch.device(kind)):
        inside = table()
        assert set(inside[own]) <= {{"ieee", "none"}}, inside
    assert table() == before, (before, table())
{after}
"""


@pytest.mark.parametrize(
    ("setting", "after"),
    [
        ("torch.set_float32_matmul_precision('medium')", ""),
        ("torch.backends.cuda.matmul.allow_tf32 = True", ""),
        ("mkldnn.matmul.fp32_precision = 'bf16'", ""),
        ("torch.set_float32_matmul_precision('high'); cuda.matmul.fp32_precision = 'ieee'", ""),
        (
            "torch.backends.fp32_precision = 'tf32'",
            "torch.backends.fp32_precision = 'ieee'; assert 'tf32' not in table()[:2], table()",
        ),
    ],
)
def test_switches_are_put_back(setting: str, after: str) -> None:
    """In a process of its own: the older switch and the newer ones remember each other."""
    done = subprocess.run(
        [sys.executable, "-c", _SWITCHES.format(setting=setting, after=after)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_last_one_out_puts_switches_back() -> None:
    """They belong to the process: a step that ends must not shorten the products of another's."""
    with short_products():
        first, second = full_precision(CPU), full_precision(CPU)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert ONEDNN.conv.fp32_precision == "ieee"
        second.__exit__(None, None, None)
        assert ONEDNN.conv.fp32_precision == "bf16"


class Scaled(nn.Linear):
    """A layer with a rule of its own below."""


@rule(Scaled)
def scaled(layer: Scaled, inputs: tuple[Tensor, ...], grads: Tensor) -> dict[str, Tensor]:
    (x,) = inputs
    again = layer(x)  # as the forward pass ran it
    assert again.dtype == grads.dtype
    return {"weight": grads.float()[:, :, None] * x.float()[:, None], "bias": grads.float()}


class Einsum(nn.Module):
    """Without a rule: run by `vmap` of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight)


@pytest.mark.parametrize("make", [lambda: Scaled(32, 32), Einsum])
def test_layers_with_rules_of_their_own_and_by_vmap_run_in_mixed_precision(make: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), make(), nn.Tanh(), nn.Linear(32, 3))
    batch = (torch.rand(4, 3, 8, 8), torch.arange(4) % 3)
    exact = clipped_gradient(model, cross_entropy, batch, clip_norm=1.0, method="loop")
    inside = clipped_gradient(model, shortened(cross_entropy), batch, clip_norm=1.0)
    with autocast():
        around = clipped_gradient(model, cross_entropy, batch, clip_norm=1.0)
    for name, value in exact.sums.items():
        # Gradients are the same wherever autocast stands: the backward pass is outside of it.
        torch.testing.assert_close(around.sums[name], inside.sums[name], rtol=1e-5, atol=1e-7)
        assert float((inside.sums[name] - value).norm()) < 0.05 * float(value.norm()), name
    assert not any("loop" in text or "one sample" in text for text in inside.fallbacks)


def test_a_shortened_loss_takes_the_fast_way_and_is_as_near_as_ordinary_autocast() -> None:
    model = nets()[1]
    seen: list[torch.dtype] = []
    layer = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    layer.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    batch = (torch.rand(6, 3, 16, 16), torch.arange(6) % 3)
    exact = clipped_gradient(model, cross_entropy, batch, clip_norm=1e9)
    assert set(seen) == {torch.float32}
    seen.clear()
    clipped_gradient(model, shortened(cross_entropy), batch, clip_norm=1e9)  # checked, perhaps in float64
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
