# SPDX-License-Identifier: Apache-2.0
"""The U-Net on a ResNet-18 takes that network's checkpoint, and scores every pixel of images of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from confide import inspect
from confide.errors import DataError
from confide.models import ResNet18, UNetResNet18, load_published


def test_a_resnet18_checkpoint_fills_the_encoder_and_nothing_else() -> None:
    checkpoint = ResNet18(in_channels=3, classes=1000).state_dict()
    model = UNetResNet18(in_channels=1, classes=2)
    left = load_published(model, checkpoint)
    assert left and all(name.startswith(("rise.", "up.", "head.")) for name in left)
    encoder = {name for name in checkpoint if not name.startswith("fc.")}
    assert encoder == set(model.state_dict()) - set(left)
    for name in encoder - {"conv1.weight"}:
        assert torch.equal(model.state_dict()[name], checkpoint[name])
    gray = checkpoint["conv1.weight"].sum(1, keepdim=True)
    assert torch.equal(model.state_dict()["conv1.weight"], gray)


def test_the_encoder_computes_what_the_resnet18_computes() -> None:
    classifier = ResNet18(in_channels=3, classes=5, widths=(8, 8, 8, 16))
    model = UNetResNet18(in_channels=3, classes=2, widths=(8, 8, 8, 16))
    load_published(model, classifier.state_dict())
    deepest: list[torch.Tensor] = []

    def note(_layer: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        deepest.append(output)

    model.layer4.register_forward_hook(note)
    images = torch.rand(2, 3, 64, 64)
    model(images)
    torch.testing.assert_close(classifier.fc(deepest[0].mean((2, 3))), classifier(images))


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (64, 47)])
def test_every_pixel_gets_a_score(size: tuple[int, int]) -> None:
    model = UNetResNet18(in_channels=1, classes=3, widths=(8, 8, 8, 8))
    assert model(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_each_level_of_the_encoder_reaches_the_scores() -> None:
    model = UNetResNet18(in_channels=1, classes=2, widths=(8, 8, 8, 8))
    model(torch.rand(2, 1, 64, 64)).square().sum().backward()
    for level, before in zip(model.up, (8, 8, 8, 8, 0), strict=True):
        weight = level.get_parameter("0.conv.weight")
        assert weight.grad is not None
        assert weight.shape[1] == before + weight.shape[0]
        assert before == 0 or float(weight.grad[:, :before].abs().sum()) > 0


def test_an_image_too_small_is_refused() -> None:
    with pytest.raises(DataError, match="31×64 cannot be halved 5 times"):
        UNetResNet18(in_channels=1, classes=2, widths=(8, 8, 8, 8))(torch.rand(1, 1, 31, 64))


def test_it_can_be_trained_privately() -> None:
    assert inspect(UNetResNet18(in_channels=1, classes=2), torch.rand(2, 1, 32, 32)) == []
