# SPDX-License-Identifier: Apache-2.0
"""The oracle of the gradient tests: one sample at a time by `backward`, clipped by hand in Python floats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.engine import ClippedGradient, clipped_gradient

Loss = Callable[[nn.Module, Any], Tensor]


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels by the cost model: the same on every machine, and nothing written to the user's cache."""
    monkeypatch.setenv("CONFIDE_KERNELS", "model")


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that gives every output a say and every sample a scale of its own."""
    images, weights = batch
    return model(images).flatten(1).square().mean(1) * weights


def one_by_one(
    model: nn.Module, loss: Loss, batch: tuple[Tensor, ...], bound: float | None, units: list[int]
) -> tuple[dict[str, Tensor], Tensor, float]:
    """Clipped sums, norms (U,), and the clip norm: given, or 0.9 of the median, so both cases occur."""
    model = copy.deepcopy(model)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = []
    for row in range(len(units)):
        model.zero_grad()
        loss(model, tuple(part[row : row + 1] for part in batch))[0].backward()
        rows.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters.values()])
    means, norms = [], []
    for label in sorted(set(units)):
        mine = [gradient for gradient, unit in zip(rows, units, strict=True) if unit == label]
        means.append([sum(parts) / len(mine) for parts in zip(*mine, strict=True)])
        norms.append(sum(float(g.double().square().sum()) for g in means[-1]) ** 0.5)
    bound = bound or 0.9 * sorted(norms)[len(norms) // 2] or 1.0
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for mean, norm in zip(means, norms, strict=True):
        for total, gradient in zip(sums.values(), mean, strict=True):
            total.data += gradient * (min(1.0, bound / norm) if norm else 0.0)
    return sums, torch.tensor(norms, dtype=torch.float64), bound


@pytest.fixture
def agrees() -> Callable[..., ClippedGradient]:
    """Hold `clipped_gradient` to the oracle in float64, to 1e-9: with and without units, whole or cut."""

    def check(
        model: nn.Module,
        images: Tensor,
        *,
        loss: Loss = squares,
        method: str = "book-keeping",
        tolerance: float = 1e-9,
    ) -> ClippedGradient:
        model = model.double()
        with torch.no_grad():  # scales of one and shifts of zero would hide what forgets them
            for parameter in model.parameters():
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter)).add_(0.1 * torch.rand_like(parameter))
        images = images.double() if images.is_floating_point() else images
        rows = len(images)
        batch = (images, torch.linspace(0.5, 2.0, rows, dtype=torch.float64))
        out: ClippedGradient | None = None
        for units in (None, [(7, 3, 3, 9, 7)[row % 5] for row in range(rows)]):
            sums, norms, bound = one_by_one(model, loss, batch, None, units or list(range(rows)))
            labels = None if units is None else torch.tensor(units)
            scale = max(float(value.abs().max()) for value in sums.values())
            for most in (None, 2):
                out = clipped_gradient(
                    model, loss, batch, clip_norm=bound, units=labels, method=method, physical_batch_size=most
                )
                assert list(out.sums) == list(sums)
                assert torch.allclose(out.norms, norms, rtol=tolerance, atol=0)
                for name, value in sums.items():
                    assert float((out.sums[name] - value).abs().max()) <= tolerance * scale, name
                if units is None:
                    assert torch.allclose(out.losses, loss(model, batch).detach())
        assert out is not None
        return out

    return check
