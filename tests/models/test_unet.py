# SPDX-License-Identifier: Apache-2.0
"""U-Net scores every pixel, of images and volumes of any size."""

from __future__ import annotations

import pytest
import torch

from confide.errors import ConfigError
from confide.models import UNet


@pytest.mark.parametrize("upsampling", ["transposed", "interpolated"])
@pytest.mark.parametrize("size", [(16, 16), (17, 22), (8, 9, 10)])
def test_a_score_for_every_pixel(size: tuple[int, ...], upsampling: str) -> None:
    model = UNet(1, 3, (4, 8, 8), dims=len(size), upsampling=upsampling)  # pyright: ignore[reportArgumentType]
    assert model(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_every_parameter_counts() -> None:
    model = UNet(1, 2, (4, 8, 8))
    model(torch.rand(1, 1, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_samples_stay_apart() -> None:
    model = UNet(1, 2, (4, 8))
    x = torch.rand(3, 1, 16, 16)
    other = x.clone()
    other[1:] *= 3
    assert torch.equal(model(x)[0], model(other)[0])


def test_four_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="dims"):
        UNet(1, 2, dims=4)
