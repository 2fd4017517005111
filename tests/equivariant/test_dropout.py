# SPDX-License-Identifier: Apache-2.0
"""Dropout of whole fields."""

from __future__ import annotations

import pytest
import torch
from tests.equivariant.cases import C4

from confide.equivariant import FieldDropout, FieldType, regular
from confide.errors import ConfigError


def test_whole_fields_of_single_samples_are_dropped_at_the_right_rate() -> None:
    layer = FieldDropout(FieldType(regular(C4), 50), 0.3).train()
    y = layer(torch.ones(200, 200, 3, 3))
    fields = y.unflatten(1, (50, 4)).flatten(2)
    assert ((fields == 0).all(2) | torch.isclose(fields, torch.tensor(1 / 0.7)).all(2)).all()
    rate = (fields[:, :, 0] == 0).double().mean().item()
    # 10,000 coins: seven standard deviations, a false alarm in 4e11 runs.
    assert abs(rate - 0.3) < 7 * (0.21 / 10_000) ** 0.5
    assert not torch.equal(fields[0], fields[1])


def test_evaluation_changes_nothing() -> None:
    x = torch.randn(2, 8, 3, 3)
    assert FieldDropout(FieldType(regular(C4), 2), 0.9).eval()(x) is x


@pytest.mark.parametrize("p", [1.0, -0.1, float("nan")])
def test_a_chance_that_is_none_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="probability"):
        FieldDropout(FieldType(regular(C4), 2), p)
