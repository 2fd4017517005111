# SPDX-License-Identifier: Apache-2.0
"""Physical batches that are filled up: the same sums, of passes whose length shows nobody's presence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.gradients.conftest import one_by_one
from torch import Tensor, nn

from confide.errors import InputError, LossError
from confide.gradients.engine import clipped_gradient
from confide.gradients.filling import with_blank
from confide.gradients.tuning import kernels
from confide.gradients.units import Units
from confide.mechanisms.clipping import AutomaticClipping, PerLayerClipping
from confide.models import ResNet9
from confide.training.losses import cross_entropy, shortened

Batch = tuple[Tensor, Tensor]
LENGTH = 4


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


def rows(count: int) -> Batch:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64), torch.arange(count) % 3


@pytest.mark.parametrize("method", ["auto", "book-keeping", "vmap", "loop"])
@pytest.mark.parametrize(
    "labels", [None, [0, 0, 1, 1, 2, 2, 3], [3, 1, 3, 2, 1, 0, 2], [0, 1, 1, 1, 1, 1, 2]]
)
def test_filled_batches_give_the_sums_of_ordinary_autograd(labels: list[int] | None, method: str) -> None:
    torch.manual_seed(0)
    model, batch = network(), rows(7)
    units = None if labels is None else torch.tensor(labels)
    owners = [*range(7)] if labels is None else labels
    sums, norms, bound = one_by_one(model, cross_entropy, batch, None, owners)
    out = clipped_gradient(
        model,
        cross_entropy,
        batch,
        clip_norm=bound,
        units=units,
        method=method,
        physical_batch_size=4,
        fill=True,
    )
    torch.testing.assert_close(out.norms, norms)
    torch.testing.assert_close(out.losses, cross_entropy(model, batch).detach())
    assert len(out.factors) == len(norms)
    for name, total in sums.items():
        torch.testing.assert_close(out.sums[name], total)


@pytest.mark.parametrize("clipping", [AutomaticClipping(1.0), PerLayerClipping((("0", 0.5), ("3", 0.5)))])
def test_rows_that_fill_up_add_nothing_where_clipping_scales_up(clipping: Any) -> None:
    """Automatic clipping gives the smallest gradient the norm C."""
    model, batch = network(), rows(5)
    filled = clipped_gradient(
        model, cross_entropy, batch, clipping=clipping, physical_batch_size=64, fill=True
    )
    plain = clipped_gradient(model, cross_entropy, batch, clipping=clipping)
    for name, total in plain.sums.items():
        torch.testing.assert_close(filled.sums[name], total)


def test_a_row_that_is_not_finite_fills_up_without_harm() -> None:
    model, (images, labels) = network(), rows(5)
    images[0] = torch.nan  # the row that is repeated
    filled = clipped_gradient(
        model, cross_entropy, (images, labels), clip_norm=0.5, physical_batch_size=8, fill=True
    )
    plain = clipped_gradient(model, cross_entropy, (images[1:], labels[1:]), clip_norm=0.5)
    for name, total in plain.sums.items():
        torch.testing.assert_close(filled.sums[name], total)


@pytest.mark.parametrize("labels", [None, [0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 4]])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 11])
def test_every_pass_has_the_same_length_but_that_of_a_larger_unit(
    labels: list[int] | None, count: int
) -> None:
    model, batch = network(), rows(count)
    lengths: list[int] = []
    units = None if labels is None else torch.tensor(labels[:count])
    # Once beforehand: the check of a new model takes rows one by one.
    how: dict[str, Any] = {"clip_norm": 1.0, "units": units, "physical_batch_size": LENGTH, "fill": True}
    clipped_gradient(model, cross_entropy, batch, **how)
    first = model[0]  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]
    handle = first.register_forward_pre_hook(lambda _, given: lengths.append(len(given[0])))  # pyright: ignore
    clipped_gradient(model, cross_entropy, batch, **how)
    handle.remove()  # pyright: ignore
    large = 5 if labels is not None and count == 11 else None
    assert lengths
    assert {length for length in lengths if length != large} == {LENGTH}
    assert lengths.count(5) == (large is not None)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1], [0, 0, 1, 1], [0, 0, 1], []])
def test_kernels_for_grouped_units_do_not_show_how_many_rows_each_has(labels: list[int]) -> None:
    """There are quicker ones for units of one row, and for units of equal length."""
    units = Units.of(torch.tensor(labels, dtype=torch.int64), len(labels), torch.device("cpu"))
    blank = with_blank(units, LENGTH - len(labels), grouped=True)
    assert (len(blank.index), blank.distinct, blank.rows_each) == (LENGTH, False, 0)
    assert blank.index[: len(labels)].tolist() == units.index.tolist()
    assert blank.repeated(2).rows_each == 0


@pytest.mark.parametrize("kernel", ["model", "loop", "fold", "blocks", "unfold", "ghost"])
def test_in_bfloat16_one_unit_moves_the_sum_by_no_more_than_its_bound(kernel: str) -> None:
    """Without filling, this very network's sum moves by 0.36 of the bound more (`benchmarks.parts`)."""
    torch.manual_seed(0)
    model = ResNet9(3, 8, (8, 16, 32), group="O2", vectors="gated-own", multiplicity="parameters")
    images, labels = torch.rand(41, 3, 28, 28), torch.randint(0, 8, (41,))

    def total(chosen: list[int]) -> Tensor:
        batch = (images[chosen], labels[chosen])
        with kernels(kernel):
            out = clipped_gradient(
                model, shortened(cross_entropy), batch, clip_norm=1.0, physical_batch_size=32, fill=True
            )
        return torch.cat([value.double().flatten() for value in out.sums.values()])

    others = total([*range(40)])
    for place in (0, 17, 40):
        joined = total([*range(place), 40, *range(place, 40)])
        assert 0.99 < float((joined - others).norm()) < 1 + 1e-4


def test_filling_needs_a_length() -> None:
    with pytest.raises(InputError, match="fill needs a physical batch size"):
        clipped_gradient(network(), cross_entropy, rows(3), clip_norm=1.0, fill=True)


def test_a_loss_of_the_wrong_shape_is_told_so() -> None:
    def mean(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(LossError, match=r"returned shape \(\)"):
        clipped_gradient(network(), mean, rows(3), clip_norm=1.0, physical_batch_size=4, fill=True)
