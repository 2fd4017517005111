# SPDX-License-Identifier: Apache-2.0
"""Poolings keep the grid's centre, so that turning and pooling commute on even and odd sides alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.equivariant.cases import ALL, C4, MIXED, PERMUTED
from tests.equivariant.turning import error_on_grid
from torch import Tensor

from confide.equivariant import (
    BlurPool2d,
    ExactnessNote,
    FieldMaxPool2d,
    FieldType,
    NormMaxPool2d,
    Representation,
    Upsample2d,
    induced,
    regular,
)
from confide.equivariant.groups import O2
from confide.equivariant.notes import forget_notes
from confide.errors import ConfigError

SIDES = [6, 7]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rep", PERMUTED, ids=str)
def test_max_pooling(rep: Representation, side: int) -> None:
    layer = FieldMaxPool2d(FieldType(rep, 2))
    x = torch.randn(2, layer.in_type.size, side, side, dtype=torch.float64)
    assert layer(x).shape[2:] == ((side + 1) // 2,) * 2
    assert error_on_grid(layer, rep, rep, x) == 0


@pytest.mark.parametrize("rep", MIXED, ids=str)
def test_max_pooling_of_mixed_channels_is_refused(rep: Representation) -> None:
    with pytest.raises(ConfigError, match="not equivariant"):
        FieldMaxPool2d(FieldType(rep, 2))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rep", ALL, ids=str)
def test_norm_max_pooling(rep: Representation, side: int) -> None:
    layer = NormMaxPool2d(FieldType(rep, 2))
    x = torch.randn(2, layer.in_type.size, side, side, dtype=torch.float64)
    assert error_on_grid(layer, rep, rep, x) < 1e-14


def test_norm_max_pooling_keeps_the_longest_vector() -> None:
    """By a loop over windows."""
    layer = NormMaxPool2d(FieldType(induced(O2(), 1), 2))
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    y = layer(x)
    for f in range(2):
        for i in range(2):
            for j in range(2):
                window = x[0, 4 * f : 4 * f + 4, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
                best = int(window.norm(dim=0).argmax())
                assert torch.equal(y[0, 4 * f : 4 * f + 4, i, j], window[:, best])


@pytest.mark.parametrize("make", [BlurPool2d, Upsample2d])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rep", ALL, ids=str)
def test_linear_resampling(
    rep: Representation, side: int, make: Callable[[FieldType], Callable[[Tensor], Tensor]]
) -> None:
    layer = make(FieldType(rep, 2))
    if isinstance(layer, torch.nn.Module):
        layer.double()
    x = torch.randn(2, 2 * rep.size, side, side, dtype=torch.float64)
    assert error_on_grid(layer, rep, rep, x) < 1e-12


def test_blur_keeps_a_constant_inside() -> None:
    layer = BlurPool2d(FieldType(regular(C4), 1))
    y = layer(torch.ones(1, 4, 12, 12))
    torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.ones(1, 4, 4, 4))
    with pytest.raises(ConfigError, match="sigma"):
        BlurPool2d(FieldType(regular(C4), 1), sigma=0.0)


def test_windows_that_do_not_fit_are_noted_once() -> None:
    forget_notes()
    layer = FieldMaxPool2d(FieldType(regular(C4), 1), size=3)
    with pytest.warns(ExactnessNote, match="drops the last rows"):
        layer(torch.randn(1, 4, 7, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.randn(1, 4, 7, 7))
        layer(torch.randn(1, 4, 9, 9))


@pytest.mark.parametrize("make", [FieldMaxPool2d, NormMaxPool2d])
@pytest.mark.parametrize("size", [0, -2, 2.0, True])
def test_windows_of_no_size_are_refused(make: Any, size: Any) -> None:
    with pytest.raises(ConfigError, match="size cannot be"):
        make(FieldType(regular(C4), 1), size)


@pytest.mark.parametrize("make", [FieldMaxPool2d, NormMaxPool2d])
def test_windows_larger_than_the_image_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="windows of 5 exceed the 3×4 image"):
        make(FieldType(regular(C4), 1), 5)(torch.zeros(1, 4, 3, 4))
