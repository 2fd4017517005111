# SPDX-License-Identifier: Apache-2.0
"""A model is judged by its own behaviour: whose images happen to come first must not decide."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.errors import UnsupportedLayerError
from confide.gradients.engine import clipped_gradient
from confide.models import ResNet9
from confide.training.losses import shortened

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Mixing(nn.Module):
    """Takes the mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.head(flat - flat.mean(0, keepdim=True))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_images_of_one_grey_or_of_nothing_do_not_refuse_a_sound_model(value: float) -> None:
    # Normalisation of a constant image divides rounding by rounding, and each batch rounds in its own way.
    batch = torch.full((2, 1, 28, 28), value), torch.tensor([0, 1])
    for _ in range(40):
        model = ResNet9(in_channels=1, classes=2, widths=(2, 4, 4))
        out = clipped_gradient(model, loss, batch, clip_norm=1.0)
        assert all(bool(total.isfinite().all()) for total in out.sums.values())


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_a_model_that_mixes_is_refused_whatever_the_first_images_are(value: float) -> None:
    # All images alike: only other numbers in their place show that they are mixed.
    batch = torch.full((4, 1, 8, 8), value), torch.tensor([0, 1, 2, 0])
    with pytest.raises(UnsupportedLayerError, match="changes with the other samples"):
        clipped_gradient(Mixing(), loss, batch, clip_norm=1.0)


def test_a_model_that_mixes_bytes_is_refused_whatever_the_first_images_are() -> None:
    model = nn.Sequential(Bytes(), Mixing())
    batch = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    with pytest.raises(UnsupportedLayerError, match="changes with the other samples"):
        clipped_gradient(model, loss, batch, clip_norm=1.0)


class Bytes(nn.Module):
    """Images of bytes to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


class Neighbours(nn.Module):
    """Adds a little of the row before."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.roll(1, 0)


@pytest.mark.parametrize("autocast", ["no", "around", "inside"])
def test_mixing_is_seen_behind_a_global_average(autocast: str) -> None:
    # Averages of plain noise are all alike, and so are the losses of one label: neither hides what is mixed.
    # Of 600 such models none was taken for sound.
    bright = torch.tensor([0.1, 0.9, 0.5, 3.0]).view(-1, 1, 1, 1)
    batch = bright * torch.rand(4, 1, 64, 64), torch.zeros(4, dtype=torch.int64)
    for _ in range(10):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            Neighbours(),
            nn.Linear(8, 3),
        )
        with torch.autocast("cpu", enabled=autocast == "around"):
            try:
                out = clipped_gradient(
                    model, shortened(loss) if autocast == "inside" else loss, batch, clip_norm=1.0
                )
            except UnsupportedLayerError:
                continue
        assert out.fallbacks  # each sample by itself


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("rows", [3, 8])
def test_a_sound_network_in_mixed_precision_is_not_refused(rows: int, single: bool) -> None:
    """Its losses differ with the size of the batch; in float64, where the copy is judged, they do not.
    A loss that takes float32 alone leaves no copy to judge."""

    def loss_of_float32(model: nn.Module, batch: Batch) -> Tensor:
        return loss(model, (batch[0].float(), batch[1]))

    used = loss_of_float32 if single else loss
    for seed in range(6):
        torch.manual_seed(seed)
        model = ResNet9(3, 3, (8, 16, 32))
        batch = torch.rand(rows, 3, 28, 28), torch.arange(rows) % 3
        assert clipped_gradient(model, shortened(used), batch, clip_norm=1.0).fallbacks == ()
        with torch.autocast("cpu", torch.bfloat16):
            assert clipped_gradient(model, used, batch, clip_norm=1.0).fallbacks == ()


def test_a_loss_that_takes_only_its_own_numbers_is_judged_on_them() -> None:
    def strict(model: nn.Module, batch: Batch) -> Tensor:
        if not bool((batch[0] > 5).all()):
            raise ValueError("only numbers above five")
        return loss(model, batch)

    images = 6 + torch.rand(4, 1, 8, 8)
    with pytest.raises(UnsupportedLayerError, match="changes with the other samples"):
        clipped_gradient(Mixing(), strict, (images, torch.tensor([0, 1, 2, 0])), clip_norm=1.0)
    out = clipped_gradient(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        strict,
        (images, torch.tensor([0, 1, 2, 0])),
        clip_norm=1.0,
    )
    assert out.norms.shape == (4,)


def test_losses_of_which_none_is_finite_settle_nothing() -> None:
    def above_five(model: nn.Module, batch: Batch) -> Tensor:
        return loss(model, batch) + (batch[0].flatten(1).amin(1) - 5).log()

    model, labels = Mixing(), torch.tensor([0, 1, 2, 0])
    nothing = clipped_gradient(
        model, above_five, (torch.full((4, 1, 8, 8), torch.nan), labels), clip_norm=1.0
    )
    assert not any(bool(total.any()) for total in nothing.sums.values())
    with pytest.raises(UnsupportedLayerError, match="changes with the other samples"):
        clipped_gradient(model, above_five, (6 + torch.rand(4, 1, 8, 8), labels), clip_norm=1.0)
