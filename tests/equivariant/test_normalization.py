# SPDX-License-Identifier: Apache-2.0
"""FieldGroupNorm: equivariant for every representation, per sample, GroupNorm of permuted fields."""

from __future__ import annotations

import pytest
import torch
from tests.equivariant.cases import ALL, C4
from tests.equivariant.turning import error_on_grid
from torch import nn

from confide.equivariant import FieldGroupNorm, FieldType, Representation, ScaleNorm, induced, regular
from confide.equivariant.groups import O2
from confide.errors import ConfigError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def random_norm(rep: Representation, dtype: torch.dtype, groups: int = 2) -> FieldGroupNorm:
    layer = FieldGroupNorm(FieldType(rep, 4), groups).to(dtype)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rep", ALL, ids=str)
def test_norms_are_exact_on_the_grid(rep: Representation, dtype: torch.dtype) -> None:
    layer = random_norm(rep, dtype)
    x = torch.randn(2, layer.in_type.size, 6, 6, dtype=dtype) + 0.5
    assert error_on_grid(layer, rep, rep, x) < TOLERANCE[dtype]
    torch.testing.assert_close(layer.export()(x), layer(x))


@pytest.mark.parametrize("rep", ALL, ids=str)
def test_samples_stay_apart(rep: Representation) -> None:
    layer = random_norm(rep, torch.float64).train()
    x = torch.randn(3, layer.in_type.size, 5, 5, dtype=torch.float64)
    other = x.clone()
    other[1:] *= 3
    assert torch.equal(layer(x)[0], layer(other)[0])


def test_regular_fields_have_the_ordinary_group_norm() -> None:
    layer = random_norm(regular(C4), torch.float64)
    assert layer.weight is not None and layer.bias is not None
    plain = nn.GroupNorm(2, 16).double()
    with torch.no_grad():
        plain.weight.copy_(layer.weight.repeat_interleave(4))
        plain.bias.copy_(layer.bias[:, 0].repeat_interleave(4) / 2)  # a unit vector over 4 channels
    x = torch.randn(3, 16, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x))
    assert type(layer.export()) is nn.GroupNorm


def test_vectors_lose_no_mean_and_get_unit_power() -> None:
    """By hand, for two induced fields of O(2) in one group: only the scalar part has a mean to lose."""
    layer = ScaleNorm(FieldType(induced(O2(), 0, 1), 2), 1, eps=0.0).double()
    x = torch.randn(1, 12, 7, 7, dtype=torch.float64) + 2.0
    mean = torch.zeros(12, 1, 1, dtype=torch.float64)
    mean[[0, 1, 6, 7]] = x[0, [0, 1, 6, 7]].mean()  # the two scalars of a field are swapped by mirrors
    wanted = (x[0] - mean) / (x[0] - mean).square().mean().sqrt()
    torch.testing.assert_close(layer(x)[0], wanted)
    assert not list(layer.parameters())


@pytest.mark.parametrize("groups", [0, 3, -1, 2.0])
def test_groups_that_do_not_divide_the_fields_are_refused(groups: int) -> None:
    with pytest.raises(ConfigError, match="equal groups"):
        FieldGroupNorm(FieldType(regular(C4), 4), groups)


def test_a_constant_image_stays_finite() -> None:
    for rep in (regular(C4), induced(O2(), 0, 1)):
        layer = random_norm(rep, torch.float32)
        x = torch.full((1, layer.in_type.size, 5, 5), 3.0, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()
