# SPDX-License-Identifier: Apache-2.0
"""U-Net whose encoder is a ResNet-18, so that it can start from published weights.

Ronneberger, Fischer, Brox (2015), arXiv:1505.04597. Ziller et al. (2021) segment livers with a U-Net whose
encoder was pretrained; pretrained weights must be public, for what they hold of people is not protected here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from confide.errors import DataError
from confide.models.blocks import ConvBlock, Rise, group_norm
from confide.models.options import check_count
from confide.models.resnet18 import ResNet18

_HALVINGS = 5


class UNetResNet18(nn.Module):
    """U-Net on images (B, in_channels, H, W), H, W ≥ 32; returns label scores (B, classes, H, W).

    The encoder's parameters have torchvision's names (`conv1`, `layer1` to `layer4`) at the default widths,
    so that `load_published`, and `training.initial_weights` of an experiment, fill it from a ResNet-18's
    checkpoint; its head is passed over, and the decoder starts at random.

    Args:
        in_channels: Channels of the images.
        classes: Labels of a pixel, background included.
        widths: Channels of the four stages of the encoder. The decoder goes back through them, and through
            half of the first to the full resolution.
        activation: relu, mish, elu or tanh.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels.

    Raises:
        ConfigError: If an argument has no meaning.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        activation: str = "relu",
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        encoder = ResNet18(in_channels, 1, widths, activation=activation, norm_groups=norm_groups)
        self.conv1, self.bn1, self.act1 = encoder.conv1, encoder.bn1, encoder.act1
        self.maxpool = encoder.maxpool
        self.layer1, self.layer2 = encoder.layer1, encoder.layer2
        self.layer3, self.layer4 = encoder.layer3, encoder.layer4
        check_count("classes", classes)
        # What each level of the decoder is joined with: stages 3, 2, 1, the stem, and nothing.
        skips = (widths[2], widths[1], widths[0], widths[0], 0)
        channels = widths[3]
        rises: list[nn.Module] = []
        up: list[nn.Module] = []
        for skip in skips:
            width = skip or max(1, widths[0] // 2)
            rises.append(Rise(channels, width, dims=2, transposed=False))
            up.append(_level(skip + width, width, activation, norm_groups))
            channels = width
        self.rise, self.up = nn.ModuleList(rises), nn.ModuleList(up)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 2**_HALVINGS:
            raise DataError(
                f"an image of {'×'.join(map(str, x.shape[2:]))} cannot be halved {_HALVINGS} times",
                remedy="Take larger images, or the model 'unet' with fewer levels.",
            )
        full = x.shape[2:]
        stem = self.act1(self.bn1(self.conv1(x)))
        one = self.layer1(self.maxpool(stem))
        two = self.layer2(one)
        three = self.layer3(two)
        x = self.layer4(three)
        skips: list[Tensor | None] = [three, two, one, stem, None]
        for skip, rise, level in zip(skips, self.rise, self.up, strict=True):
            x = _cropped(rise(x), full if skip is None else skip.shape[2:])
            x = level(x if skip is None else torch.cat([skip, x], 1))
        return self.head(x)


def _level(channels: int, width: int, act: str, norm_groups: int) -> nn.Module:
    """Two 3×3 convolutions, normalised before their activation as in the encoder."""

    def block(before: int) -> nn.Module:
        conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
        return ConvBlock(conv, group_norm(width, norm_groups), act, norm_first=True)

    return nn.Sequential(block(channels), block(width))


def _cropped(x: Tensor, size: torch.Size) -> Tensor:
    """Drop the pixel that doubling has too many where halving rounded an odd side up."""
    return x[..., : size[0], : size[1]]
