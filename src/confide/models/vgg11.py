# SPDX-License-Identifier: Apache-2.0
"""VGG-11 with GroupNorm, under the state-dict names of torchvision's `vgg11_bn`.

Simonyan & Zisserman (2014), arXiv:1409.1556. The classifier of Ziller et al. (2021) is this network.
"""

from __future__ import annotations

from torch import Tensor, nn

from confide.models.blocks import activation as make_activation
from confide.models.blocks import group_norm
from confide.models.options import check_count, check_widths

# Stage of each of the eight convolutions; a pooling follows the last one of a stage.
_STAGES = (0, 1, 2, 2, 3, 3, 4, 4)


class VGG11(nn.Module):
    """VGG-11 on images (B, in_channels, H, W) with H, W ≥ 32; returns class scores (B, classes).

    The published form is `hidden=4096, pool_size=7`: 133 million parameters, nearly all in its head, where
    noise drowns them. The default keeps the convolutions and makes the head small. There is no dropout.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        widths: Channels of the five stages.
        hidden: Width of the two hidden layers of the head.
        pool_size: Side to which the last features are averaged before the head.
        activation: relu, mish, elu or tanh.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels.

    Raises:
        ConfigError: If an argument has no meaning.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        *,
        hidden: int = 256,
        pool_size: int = 1,
        activation: str = "relu",
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        channels = check_count("in_channels", in_channels)
        check_count("classes", classes)
        check_count("hidden", hidden)
        check_count("pool_size", pool_size)
        check_count("norm_groups", norm_groups)
        widths = check_widths(widths, 5)
        layers: list[nn.Module] = []
        for i, stage in enumerate(_STAGES):
            width = widths[stage]
            layers += [nn.Conv2d(channels, width, 3, padding=1), group_norm(width, norm_groups)]
            layers.append(make_activation(activation))
            if i + 1 == len(_STAGES) or _STAGES[i + 1] != stage:
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pool_size)
        # Identities stand where torchvision has dropout, so that the indices in the names agree.
        self.classifier = nn.Sequential(
            nn.Linear(channels * pool_size**2, hidden),
            make_activation(activation),
            nn.Identity(),
            nn.Linear(hidden, hidden),
            make_activation(activation),
            nn.Identity(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
