# SPDX-License-Identifier: Apache-2.0
"""Rows and their units: averaging, cutting, and what contradicts a batch."""

from __future__ import annotations

import pytest
import torch

from confide.errors import LossError
from confide.gradients.units import Units, squared_norms, without_rows

CPU = torch.device("cpu")


def units(*labels: int) -> Units:
    return Units.of(torch.tensor(labels), len(labels), CPU)


def test_labels_are_numbered_in_their_order() -> None:
    assert units(7, -3, 7, 9).index.tolist() == [1, 0, 1, 2]
    assert not units(7, -3, 7, 9).distinct
    assert units(1, 5, 8).distinct
    assert not units(5, 1, 8).distinct  # the results are in label order, so these rows are out of place


@pytest.mark.parametrize(
    ("labels", "each"), [((3, 5, 9), 1), ((1, 1, 4, 4), 2), ((1, 1, 4), 0), ((2, 2, 2), 3)]
)
def test_rows_each(labels: tuple[int, ...], each: int) -> None:
    assert units(*labels).rows_each == each


def test_weights_and_sums_make_means() -> None:
    owner, values = units(0, 0, 0, 8), torch.tensor([1.0, 2.0, 6.0, 5.0], dtype=torch.float64)
    assert owner.row_weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    assert owner.sum_rows(values * owner.row_weights).tolist() == pytest.approx([3.0, 5.0])


def test_chunks_are_cut_between_units() -> None:
    chunks = units(0, 1, 1, 2, 2, 2, 2, 3).chunks(3)
    assert [chunk.tolist() for chunk in chunks] == [[0, 1, 2], [3, 4, 5, 6], [7]]


def test_sizes() -> None:
    assert units(4, 4, 6, 6, 6).sizes() == [2, 3]
    assert units(4, 5, 6).sizes() == [1, 1, 1]


@pytest.mark.parametrize(
    "labels", [torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1).long()]
)
def test_labels_that_do_not_fit_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(LossError, match="one integer per row"):
        Units.of(labels, 3, CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 3000])
def test_squared_norms(dtype: torch.dtype, size: int) -> None:
    values = torch.randn(3, size).to(dtype)
    expected = [sum(float(v) ** 2 for v in row) for row in values]
    assert squared_norms(values).dtype == torch.float64
    assert squared_norms(values).tolist() == pytest.approx(expected, rel=1e-6)


def test_rows_without_a_say() -> None:
    values = torch.tensor([[1.0], [float("nan")], [float("inf")]])
    assert without_rows(values, torch.tensor([1, 2])).tolist() == [[1.0], [0.0], [0.0]]
