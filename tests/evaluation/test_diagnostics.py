# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of a batch, against gradients of one sample at a time by plain autograd."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from confide.evaluation import diagnostics as module
from confide.evaluation.diagnostics import diagnostics
from confide.experiments.history import DiagnosticLine
from confide.mechanisms.clipping import AutomaticClipping, FlatClipping, PerLayerClipping

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels, reduction="none")


@pytest.fixture
def model() -> nn.Module:
    # ReLU before the last layer makes exact zeros, so that there is something sparse to count.
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4))


@pytest.fixture
def batch() -> Batch:
    return torch.randn(12, 1, 8, 8), torch.randint(0, 4, (12,))


def by_hand(model: nn.Module, batch: Batch, units: list[int]) -> list[dict[str, Tensor]]:
    """Mean gradient of each unit, in ascending order of the unit."""
    found = []
    for unit in sorted(set(units)):
        rows = [i for i, u in enumerate(units) if u == unit]
        model.zero_grad()
        loss(model, (batch[0][rows], batch[1][rows])).mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    return found


@pytest.mark.parametrize("units", [list(range(12)), [3, 3, 1, 1, 1, 9, 3, 0, 9, 0, 0, 1]])
def test_equals_one_unit_at_a_time(model: nn.Module, batch: Batch, units: list[int]) -> None:
    gradients = by_hand(model, batch, units)
    norms = [math.sqrt(sum(float((g.double() ** 2).sum()) for g in one.values())) for one in gradients]
    bound = float(np.median(norms)) * 1.0001
    small = [
        sum(int((g.abs() <= 1e-5).sum()) for g in one.values()) / sum(g.numel() for g in one.values())
        for one in gradients
    ]
    found = diagnostics(model, loss, batch, FlatClipping(bound), units=torch.tensor(units))
    # A few of 471 entries may lie within rounding of the threshold.
    assert found.sparsity == pytest.approx(np.mean(small), abs=3 / 471)
    assert found.sparsity > 0  # dead units: how many is left to the initial weights
    assert found.clip_fraction == np.mean([norm > bound for norm in norms])
    edges = found.norms.edges
    expected = [sum(low <= norm < high for norm in norms) for low, high in pairwise(edges)]
    assert found.norms.counts.tolist() == expected


def test_small_chunks_change_nothing(model: nn.Module, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    units = torch.tensor([0, 1, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    whole = diagnostics(model, loss, batch, FlatClipping(1.0), units=units)
    monkeypatch.setattr(module, "_ENTRIES", 1)
    parts = diagnostics(model, loss, batch, FlatClipping(1.0), units=units)
    assert parts.sparsity == pytest.approx(whole.sparsity, abs=3 / 471)


def test_clipped_in_any_group_is_clipped(model: nn.Module, batch: Batch) -> None:
    wide = PerLayerClipping((("0", 1e6), ("3", 1e6)))
    narrow = PerLayerClipping((("0", 1e6), ("3", 1e-6)))
    assert diagnostics(model, loss, batch, wide).clip_fraction == 0
    assert diagnostics(model, loss, batch, narrow).clip_fraction == 1
    # Normalised gradients are scaled down exactly where their norm exceeds C - gamma.
    assert diagnostics(model, loss, batch, AutomaticClipping(1e6)).clip_fraction == 0


def test_nothing_stays_on_the_model(model: nn.Module, batch: Batch) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    diagnostics(model, loss, batch, FlatClipping(1.0))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_it_fits_a_line_of_the_history(model: nn.Module, batch: Batch) -> None:
    found = diagnostics(model, loss, batch, FlatClipping(1.0))
    line = DiagnosticLine(step=3, epoch=0.5, public=True, **found.line())
    assert line.sparsity == found.sparsity and sum(line.norm_counts or []) == 12
    none = diagnostics(model, loss, (batch[0][:0], batch[1][:0]), FlatClipping(1.0))
    assert none.line()["sparsity"] is None and none.line()["clip_fraction"] is None
    DiagnosticLine(step=3, epoch=0.5, public=True, **none.line())
