# SPDX-License-Identifier: Apache-2.0
"""Small gradients side by side and in one block, and a clip norm of its own for each layer, against Python
floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.captures import SMALL, Ghost, Instantiated, Rotated, Shelf, SideBySide
from confide.gradients.engine import clipped_gradient
from confide.gradients.reference import per_sample_gradients
from confide.mechanisms.clipping import PerLayerClipping


def test_side_by_side_is_each_by_itself() -> None:
    shapes = [(3, 2), (3 * SMALL + 5,), (5,), (2 * SMALL,), (1,)]
    parts = [torch.randn(4, *shape) for shape in shapes]
    beside = SideBySide([Instantiated(part) for part in parts])
    norms = [sum(float(v) ** 2 for v in row.flatten()) for part in parts for row in part]
    assert beside.squared_norms().t().flatten().tolist() == pytest.approx(norms, rel=1e-6)
    factors = torch.rand(4, len(parts), dtype=torch.float64)
    factors[1] = 0
    for part in parts:
        part[1] = float("nan")  # a unit that must add nothing
    for given in (factors, factors[:, :1]):
        beside = SideBySide([Instantiated(part) for part in parts])
        totals = beside.small_sums(given, torch.tensor([1]))
        assert list(totals) == [0, 2, 4]
        for number, total in totals.items():
            own = given[:, number if given.shape[1] > 1 else 0]
            expected = sum(float(own[u]) * parts[number][u].double().flatten() for u in (0, 2, 3))
            assert torch.allclose(total, expected)


def test_a_clip_norm_for_each_layer() -> None:
    torch.manual_seed(0)  # weights and images; the check is deterministic
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 40)).double()
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0]).square().sum(1)

    each = per_sample_gradients(model, loss, (images,))
    sizes = [value[0].numel() for value in each.values()]
    assert min(sizes) < SMALL < max(sizes)
    layers = {"0": ("0.weight", "0.bias"), "1": ("1.weight", "1.bias"), "3": ("3.weight", "3.bias")}
    norms = {
        layer: [sum(float(each[n][row].square().sum()) for n in names) ** 0.5 for row in range(5)]
        for layer, names in layers.items()
    }
    bounds = {layer: sorted(values)[2] * 0.9 for layer, values in norms.items()}
    clipping = PerLayerClipping(tuple(bounds.items()))
    out = clipped_gradient(model, loss, (images,), clipping=clipping, method="book-keeping")
    for layer, names in layers.items():
        for name in names:
            expected = torch.zeros_like(each[name][0])
            for row in range(5):
                expected += each[name][row] * min(1.0, bounds[layer] / norms[layer][row])
            assert torch.allclose(out.sums[name], expected, rtol=1e-8, atol=1e-10), name


def _formed(*shape: int, dtype: torch.dtype = torch.float32) -> Instantiated:
    return Instantiated(torch.randn(*shape).to(dtype))


def _block(values: Tensor) -> int:
    return values.untyped_storage().data_ptr()


def test_small_gradients_stand_behind_each_other_in_one_block() -> None:
    shelf = Shelf.of([torch.zeros(3, 2), torch.zeros(5)], 4)
    first, second = _formed(4, 3, 2), _formed(4, 5)
    kept = [shelf.kept(first), shelf.kept(second)]
    for before, after in zip((first, second), kept, strict=True):
        assert isinstance(after, Instantiated)
        assert after is not before
        assert torch.equal(after.values, before.values)
    values = [use.values for use in kept if isinstance(use, Instantiated)]
    assert _block(values[0]) == _block(values[1])
    assert values[1].data_ptr() - values[0].data_ptr() == 4 * 6 * 4


def test_what_does_not_fit_stays_where_it_is() -> None:
    shelf = Shelf.of([torch.zeros(3)], 4)
    ghost = Ghost(torch.zeros(4, 1), torch.zeros(4, 1), lambda a, _: a, lambda a, _: a, lambda a, _: a)
    for use in (ghost, _formed(4, 3, dtype=torch.float64), _formed(4, 4)):
        assert shelf.kept(use) is use
    whole = shelf.kept(_formed(4, 3))
    again = _formed(4, 3)
    assert shelf.kept(again) is again, (
        "the block is full: a second use of a parameter would overwrite the first"
    )
    assert isinstance(whole, Instantiated)


def test_many_units_and_large_parameters_get_no_block() -> None:
    for parameter, units in ((torch.zeros(3), 64), (torch.zeros(100_000), 4)):
        use = _formed(units, parameter.numel())
        assert Shelf.of([parameter], units).kept(use) is use


def test_gradients_in_other_coordinates_come_back_as_a_sum() -> None:
    """Also from the block, where only their numbers are moved."""
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    own = torch.randn(4, 2, 3)
    own[1] = float("nan")
    rotated = Rotated(own.flatten(1) @ turn, lambda values: (values @ turn.t()).view(-1, 2, 3))
    factors, bad = torch.rand(4, dtype=torch.float64), torch.tensor([1])
    for use in (rotated, Shelf.of([torch.zeros(6)], 4).kept(rotated)):
        assert isinstance(use, Rotated)
        assert use is rotated or _block(use.values) != _block(rotated.values)
        assert torch.allclose(use.gradients(), own, atol=1e-5, equal_nan=True)
        expected = [float(row.double().square().sum()) for row in own]
        assert use.squared_norms().tolist() == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert not use.small
        total = sum(float(factors[u]) * own[u] for u in (0, 2, 3))
        assert torch.allclose(use.weighted(factors, bad), total, atol=1e-5)
