# SPDX-License-Identifier: Apache-2.0
"""The measured errors are zero where a network is exact, and not where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from tests.equivariant.pictures import Picture
from tests.equivariant.turning import act, grid_symmetries, turn
from torch import nn

from confide.equivariant import CyclicGroup, DihedralGroup, Element, FieldType, SteerableConv2d, regular
from confide.equivariant.groups import O2, SO2
from confide.equivariant.measure import equivariance_errors, turn_fields, turn_image
from confide.equivariant.pictures import blobs, draw_basis, draw_errors, draw_fields
from confide.errors import ConfigError, ModelError
from confide.models import ResNet9, UNet

QUARTERS = [Element(i * math.pi / 2, m) for m in (False, True) for i in range(4)]


def test_turns_of_the_grid_are_the_oracles() -> None:
    rep = regular(DihedralGroup(4))
    x = torch.randn(2, 16, 5, 5)
    for element, _ in grid_symmetries(rep.group):
        assert torch.equal(turn_image(x, element), turn(x, element))
        torch.testing.assert_close(turn_fields(x, FieldType(rep, 2), element), act(x, rep, element))


@pytest.mark.parametrize("shape", [(33, 33), (33, 41)])
@pytest.mark.parametrize("element", [Element(0.7), Element(5.0, True), Element(math.pi / 2)])
def test_other_turns_are_a_smooth_picture_drawn_again(shape: tuple[int, int], element: Element) -> None:
    """Bilinear reading of blobs of 2.5 pixels and more errs by a few hundredths of their height."""
    picture = Picture.random(2, torch.Generator().manual_seed(torch.seed()))
    side = max(shape)
    rows, columns = ((side - n) // 2 for n in shape)
    cut = (..., slice(rows, side - rows), slice(columns, side - columns))
    found = turn_image(picture.draw(side, 0.0)[cut], element)
    wanted = picture.draw(side, element.angle, element.mirrored)[cut]
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    inside = (x**2 + y**2 < (min(shape) / 2 - 2) ** 2).float()
    assert float(((found - wanted) * inside).norm() / (wanted * inside).norm()) < 0.15


def test_an_exact_network_reads_zero_and_a_restricted_one_says_so() -> None:
    model = ResNet9(1, 2, (2, 2, 4), group="D4").train()
    errors = equivariance_errors(model, blobs(1, 28), QUARTERS)
    assert model.training
    assert {e.group for e in errors} == {"D4", "D2"}
    assert max(e.error for e in errors if e.promised) < 1e-4
    assert {e.angle for e in errors if not e.promised} == {90.0, 270.0}
    assert max(e.error for e in errors if not e.promised) > 0.1
    assert errors[-1].layer == "output"


def test_a_broken_layer_is_seen_where_it_stands() -> None:
    model = ResNet9(1, 2, (2, 2, 4), group="C4", restrict=False)
    conv = model.res1.body[1].conv  # pyright: ignore
    conv.basis += 0.05 * torch.randn_like(conv.basis)
    errors = equivariance_errors(model, blobs(1, 28), [Element(math.pi / 2)])
    bad = [e.layer for e in errors if e.error > 1e-4]
    assert bad[0] == "res1.body.1.conv"


def test_scores_of_pixels_turn() -> None:
    errors = equivariance_errors(UNet(1, 2, (2, 2), group="C4"), blobs(1, 16), [Element(math.pi / 2)])
    assert max(e.error for e in errors) < 1e-4


def test_elements_of_groups() -> None:
    assert CyclicGroup(8).has(Element(math.pi / 4))
    assert not CyclicGroup(8).has(Element(math.pi / 8))
    assert not SO2().has(Element(0.1, True)) and O2().has(Element(0.1, True))


def test_an_ordinary_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no steerable layer"):
        equivariance_errors(nn.Conv2d(1, 1, 1), blobs(1, 8), QUARTERS)


def test_pictures_show_what_they_say() -> None:
    model = ResNet9(1, 2, (2, 2, 4), group="D4", restrict=False)
    figure = draw_fields(model, blobs(1, 28), "conv2.conv", QUARTERS[:4])
    assert len(figure.axes) == 16
    for axis in figure.axes[12:]:  # the differences
        assert abs(axis.images[0].get_array()).max() < 1e-5 * axis.images[0].get_clim()[1] + 1e-5  # pyright: ignore
    errors = equivariance_errors(model, blobs(1, 28), QUARTERS)
    assert draw_errors(errors).axes[0].images[0].get_array().shape == (len({e.layer for e in errors}), 8)  # pyright: ignore
    conv = next(m for m in model.modules() if isinstance(m, SteerableConv2d))
    assert len(draw_basis(conv, 4).axes) == 4 * 8
    with pytest.raises(ConfigError, match="no steerable layer 'conv9'"):
        draw_fields(model, blobs(1, 28), "conv9", QUARTERS[:1])
    with pytest.raises(ConfigError, match="no turn by 45"):
        draw_fields(model, blobs(1, 28), "conv2.conv", [Element(math.pi / 4)])
