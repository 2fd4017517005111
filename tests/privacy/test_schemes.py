# SPDX-License-Identifier: Apache-2.0
"""Schemes report their own event, rate and adjacency, and refuse what they cannot be."""

from __future__ import annotations

import math

import dp_accounting as dpa
import pytest

from confide.errors import PlanError
from confide.privacy.schemes import (
    FixedSizeSampling,
    FullBatch,
    PoissonSampling,
    expected_size,
    sampling_from_dict,
)
from confide.privacy.units import Adjacency


def test_events() -> None:
    gaussian = dpa.GaussianDpEvent(2.0)
    assert PoissonSampling(0.1).event(2.0, 7) == dpa.SelfComposedDpEvent(
        dpa.PoissonSampledDpEvent(0.1, gaussian), 7
    )
    assert FullBatch().event(2.0, 7) == dpa.SelfComposedDpEvent(gaussian, 7)
    half = dpa.SampledWithoutReplacementDpEvent(
        100, 10, dpa.GaussianDpEvent(1.0)
    )  # a replacement moves by 2C
    assert FixedSizeSampling(10, 100).event(2.0, 7) == dpa.SelfComposedDpEvent(half, 7)


def test_adjacency_belongs_to_the_scheme() -> None:
    assert PoissonSampling.adjacency is FullBatch.adjacency is Adjacency.ADD_OR_REMOVE_ONE
    assert FixedSizeSampling.adjacency is Adjacency.REPLACE_ONE


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(PlanError):
        PoissonSampling(rate)


@pytest.mark.parametrize("size, units", [(0, 10), (11, 10), (-1, 10), (2.5, 10), (True, 10)])
def test_impossible_subsets(size: int, units: int) -> None:
    with pytest.raises(PlanError):
        FixedSizeSampling(size, units)


def test_a_subset_belongs_to_its_number_of_units() -> None:
    with pytest.raises(PlanError, match="101"):
        FixedSizeSampling(10, 100).rate(101)


def test_the_expected_size_of_a_whole_batch_is_whole() -> None:
    for units in range(2, 3000, 7):
        for size in (1, units // 2 or 1, units):
            assert expected_size(PoissonSampling(size / units), units) == size
    assert expected_size(PoissonSampling(0.123), 10) == pytest.approx(1.23)


def test_records() -> None:
    for scheme in (PoissonSampling(0.25), FixedSizeSampling(3, 12), FullBatch()):
        assert sampling_from_dict(scheme.to_dict()) == scheme
    with pytest.raises(PlanError, match="nearest is 'poisson'"):
        sampling_from_dict({"name": "poison"})
    with pytest.raises(PlanError, match="no amplification"):
        sampling_from_dict({"name": "shuffle"})
    with pytest.raises(PlanError, match="balls-in-bins"):
        sampling_from_dict({"name": "balls-in-bins", "bins": 3})
