# SPDX-License-Identifier: Apache-2.0
"""Cutting logical batches between units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.data.augment import Augmentation
from confide.errors import InputError
from confide.training.examples import as_examples
from confide.training.physical import PhysicalBatches, Work, unit_means, views_of


def batches(units: np.ndarray, most: int, views: int = 1, single: bool = False) -> PhysicalBatches:
    examples = as_examples((torch.arange(len(units)).float(),), units)
    return PhysicalBatches(examples, views, None, Work(most), single)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    most=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_row_once_in_order_and_no_unit_cut(counts: list[int], most: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    units = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    chosen = np.flatnonzero(generator.random(len(counts)) < 0.6)
    parts = list(batches(units, most).cut(chosen, 0))
    seen = [row for rows, _ in parts for row in rows]
    assert sorted(seen) == sorted(np.flatnonzero(np.isin(units, chosen)))
    owners = [set(owner) for _, owner in parts]
    assert all(not a & b for i, a in enumerate(owners) for b in owners[i + 1 :])
    for rows, owner in parts:
        assert (units[rows] == chosen[owner]).all()
        assert (np.diff(owner) >= 0).all()
        assert len(rows) <= most or len(set(owner)) == 1


def test_views_count_against_the_size_and_single_takes_units_one_by_one() -> None:
    units = np.repeat(np.arange(6), 2)
    sizes = [len(rows) for rows, _ in batches(units, 12, views=3).cut(np.arange(6), 0)]
    assert sizes == [4, 4, 4]
    alone = list(batches(units, 1000, single=True).cut(np.arange(6), 0))
    assert [set(owner) for _, owner in alone] == [{i} for i in range(6)]
    assert not list(batches(units, 4).cut(np.array([], np.int64), 0))


def test_a_unit_keeps_random_rows_of_its_own_whoever_else_is_there() -> None:
    units = np.repeat(np.arange(5), 10)
    examples = as_examples((torch.arange(50).float(),), units)
    cut = PhysicalBatches(examples, 1, None, Work(1000, max_rows_per_unit=3))
    ((rows, owner),) = cut.cut(np.arange(5), 77)
    assert np.bincount(owner).tolist() == [3] * 5
    ((fewer, _),) = cut.cut(np.array([1, 3]), 77)
    assert set(fewer) == {row for row in rows if units[row] in (1, 3)}
    ((others, _),) = cut.cut(np.arange(5), 78)
    assert set(others) != set(rows)  # equal by chance: (1/120)⁵


def test_views_belong_to_the_row() -> None:
    images, targets = torch.rand(6, 1, 8, 8), torch.arange(6)
    examples = as_examples((images, targets))
    kind = Augmentation.of(["shift", "brightness"])
    together = views_of(examples, np.arange(6), 3, kind, 5)
    alone = views_of(examples, np.array([4]), 3, kind, 5)
    assert torch.equal(together[0][12:15], alone[0])
    assert together[1].tolist() == np.repeat(np.arange(6), 3).tolist()
    assert len(together[0].reshape(18, -1).unique(dim=0)) == 18
    assert not torch.equal(alone[0], views_of(examples, np.array([4]), 3, kind, 6)[0])
    with pytest.raises(InputError, match="images, targets"):
        views_of(as_examples((images,)), np.arange(2), 2, kind, 0)


def test_unit_means_by_hand() -> None:
    found = unit_means(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([4, 4, 9]))
    assert found.tolist() == [2.0, 10.0]


@pytest.mark.parametrize("given", [{"physical_batch_size": 0}, {"max_rows_per_unit": 0}])
def test_impossible_work_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Work(**given)
