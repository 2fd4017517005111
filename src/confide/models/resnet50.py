# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 with GroupNorm, under torchvision's state-dict names.

He, Zhang, Ren, Sun (2015), arXiv:1512.03385, with the stride in the 3×3 convolution as torchvision has it;
GroupNorm in place of BatchNorm: Wu & He (2018), arXiv:1803.08494.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor, nn

from confide.models.blocks import activation as make_activation
from confide.models.blocks import group_norm
from confide.models.options import check_choice, check_count, check_widths
from confide.models.resnet18 import Stem

EXPANSION = 4
_DEPTHS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1×1 to `width` channels, 3×3 with the stride, 1×1 to four times as many; and a shortcut."""

    def __init__(self, channels: int, width: int, *, stride: int, norm_groups: int, act: str) -> None:
        super().__init__()
        wide = EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = group_norm(width, norm_groups)
        self.act1 = make_activation(act)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = group_norm(width, norm_groups)
        self.act2 = make_activation(act)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = group_norm(wide, norm_groups)
        self.act3 = make_activation(act)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, wide, 1, stride, bias=False), group_norm(wide, norm_groups)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.act3(self.bn3(self.conv3(y)) + shortcut)


class ResNet50(nn.Module):
    """ResNet-50 on images (B, in_channels, H, W); returns class scores (B, classes).

    With the default widths and stem the names and shapes of its parameters are torchvision's (`bn1` and the
    like are GroupNorms), so that `load_published` takes the published weights. Its 23.5 million parameters
    make it a baseline of what is too large for DP without pretraining.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        widths: Inner channels of the four stages; a stage gives four times as many.
        stem: "imagenet" (7×7 stride 2, then max pooling) or "small" (3×3 stride 1), for images of some
            28 pixels.
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
        stem: Stem = "imagenet",
        activation: str = "relu",
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        check_count("norm_groups", norm_groups)
        widths = check_widths(widths, 4)
        small = check_choice("stem", stem, get_args(Stem)) == "small"
        self.conv1 = nn.Conv2d(in_channels, widths[0], *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = group_norm(widths[0], norm_groups)
        self.act1 = make_activation(activation)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Module] = []
        channels = widths[0]
        for i, (width, depth) in enumerate(zip(widths, _DEPTHS, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(depth):
                stride = 2 if i and not j else 1
                blocks.append(
                    Bottleneck(channels, width, stride=stride, norm_groups=norm_groups, act=activation)
                )
                channels = EXPANSION * width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer sees: (B, in_channels, H, W) → (B, 4·widths[3])."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))
