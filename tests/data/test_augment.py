# SPDX-License-Identifier: Apache-2.0
"""Views: a mask moves with its image, and a row depends on its own numbers alone."""

from __future__ import annotations

import pytest
import torch

from confide.data.augment import OPERATIONS, Augmentation
from confide.errors import ConfigError

GEOMETRIC = [name for name in OPERATIONS if name not in ("brightness", "rotate", "crop")]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_mask_moves_with_its_image(name: str) -> None:
    """Where the image is bright the mask is 1; after the same move it still is (rims of a shift aside)."""
    masks = torch.zeros(64, 16, 16, dtype=torch.int64)
    masks[:, 5:9, 4:12] = 1
    masks[:, 5, 4] = 0
    images = masks[:, None].float().repeat(1, 3, 1, 1)
    view = Augmentation.of([name])
    moved, followed = view(images, masks, torch.rand(64, view.draws, dtype=torch.float64))
    assert torch.equal(moved[:, 0] > 0.5, followed == 1)
    assert (moved != images).flatten(1).any(1).float().mean() > 0.2


@pytest.mark.parametrize("name", ["rotate", "crop"])
def test_a_resampled_mask_stays_with_its_image(name: str) -> None:
    masks = torch.zeros(32, 32, 32, dtype=torch.int64)
    masks[:, 8:24, 10:22] = 1
    view = Augmentation.of([name])
    moved, followed = view(masks[:, None].float(), masks, torch.rand(32, view.draws, dtype=torch.float64))
    # Bilinear against nearest differ on the rim only.
    assert ((moved[:, 0] > 0.5) != (followed == 1)).float().mean() < 0.02


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_depends_on_its_own_numbers(name: str) -> None:
    images, targets = torch.rand(6, 1, 12, 12), torch.arange(6)
    view = Augmentation.of([name, "flip"])
    numbers = torch.rand(6, view.draws, dtype=torch.float64)
    whole, labels = view(images, targets, numbers)
    alone, _ = view(images[3:4], targets[3:4], numbers[3:4])
    # Resampling works in blocks whose last bits depend on the size of the batch.
    torch.testing.assert_close(whole[3:4], alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, targets)


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'flip'"):
        Augmentation.of(["flop"])


def test_reflect_crop_is_padding_by_four_and_cropping() -> None:
    """Against torch's own reflect padding, for each of the 9×9 places at 28 and at 32 pixels."""
    for side in (28, 32):
        image = torch.rand(1, 2, side, side)
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4), mode="reflect")
        view = Augmentation.of(["reflect-crop"])
        for y in range(9):
            for x in range(9):
                numbers = torch.tensor([[(y + 0.5) / 9, (x + 0.5) / 9]], dtype=torch.float64)
                moved, _ = view(image, torch.zeros(1), numbers)
                assert torch.equal(moved, padded[..., y : y + side, x : x + side])


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_volume_moves_slice_by_slice(name: str) -> None:
    volumes = torch.rand(5, 2, 3, 16, 16)
    view = Augmentation.of([name])
    numbers = torch.rand(5, view.draws, dtype=torch.float64)
    moved, _ = view(volumes, torch.arange(5), numbers)
    for k in range(3):
        alone, _ = view(volumes[:, :, k], torch.arange(5), numbers)
        torch.testing.assert_close(moved[:, :, k], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_numbers_make_the_same_view_and_inputs_stay(name: str) -> None:
    images = torch.rand(4, 1, 16, 16)
    before, view = images.clone(), Augmentation.of([name])
    numbers = torch.rand(4, view.draws, dtype=torch.float64)
    first, second = (view(images, torch.arange(4), numbers)[0] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(images, before)
