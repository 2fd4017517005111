# SPDX-License-Identifier: Apache-2.0
"""ResNet-9, the small residual network of private image classification.

Stages a-b-(residual b)-c-c-(residual c) with a ≤ b ≤ c, two 2×2 poolings, global max, one linear layer.
Klause, Ziller, Rueckert, Hammernik, Kaissis (2022), arXiv:2203.00324; the 8-16-32 layout and its steerable
forms: Hölzl, Rueckert, Kaissis (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from confide.models.blocks import ConvBlock, GlobalMaxPool, Residual, group_norm
from confide.models.options import check_count, check_widths


class ResNet9(nn.Module):
    """ResNet-9 on images (B, in_channels, H, W) with H, W ≥ 4; returns class scores (B, classes).

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        widths: Channels of the three stages: (8, 16, 32) small, (64, 128, 256) as in Klause et al.
        activation: relu, mish, elu or tanh.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels.
        norm_first: Normalise before the activation instead of after.
        scale_norm: Normalise after each residual addition too.

    Raises:
        ConfigError: If an argument has no meaning.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (8, 16, 32),
        *,
        activation: str = "relu",
        norm_groups: int = 4,
        norm_first: bool = False,
        scale_norm: bool = False,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        check_count("norm_groups", norm_groups)
        a, b, c = check_widths(widths, 3)

        def block(channels: int, width: int, *, pool: bool = False) -> nn.Module:
            return ConvBlock(
                channels, width, act=activation, norm_groups=norm_groups, norm_first=norm_first, pool=pool
            )

        def residual(width: int) -> nn.Module:
            body = nn.Sequential(block(width, width), block(width, width))
            return Residual(body, group_norm(width, norm_groups) if scale_norm else None)

        self.conv1 = block(in_channels, a)
        self.conv2 = block(a, b, pool=True)
        self.res1 = residual(b)
        self.conv3 = block(b, c, pool=True)
        self.conv4 = block(c, c)
        self.res2 = residual(c)
        self.pool = GlobalMaxPool()
        self.classifier = nn.Linear(c, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer sees: (B, in_channels, H, W) → (B, widths[-1])."""
        x = self.res1(self.conv2(self.conv1(x)))
        return self.pool(self.res2(self.conv4(self.conv3(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
