# SPDX-License-Identifier: Apache-2.0
"""ResNet-9, the small residual network of private image classification, ordinary or steerable.

Stages a-b-(residual b)-c-c-(residual c), two 2×2 poolings, global max, one linear layer.
Klause, Ziller, Rueckert, Hammernik, Kaissis (2022), arXiv:2203.00324; the 8-16-32 layout and its steerable
forms: Hölzl, Rueckert, Kaissis (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from confide.models.blocks import GlobalMaxPool, Residual
from confide.models.design import BlockOptions, choose_design
from confide.models.options import check_count, check_widths

if TYPE_CHECKING:
    from confide.equivariant import Group


class ResNet9(nn.Module):
    """ResNet-9 on images (B, in_channels, H, W) with H, W ≥ 4; returns class scores (B, classes).

    With a group the convolutions are steerable and the scores do not change when the image is turned
    (mirrored) by it: exactly for quarter turns and mirrors, nearly for others. Restricted, they do not
    change under half the rotations only.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        widths: Channels of the three stages, or fields: (8, 16, 32), or (64, 128, 256) as in Klause et al.
        group: A group or its name, such as "C4", "D4", "SO2" or "O2"; None or "none": ordinary convolutions.
        restrict: Go on with C_{N/2} (D_{N/2}) after the first residual layer, where N is even.
        multiplicity: How many fields a width means: "fields", "parameters" or "channels".
        frequencies: Of the hidden fields of SO(2) and O(2).
        vectors: Non-linearity of SO(2) and O(2): "gated", "gated-own" or "norm".
        pooling: "auto", "max" or "blur"; ordinary networks have max pooling.
        frequency_cutoff: Highest angular frequency of the kernels per pixel of radius.
        kernel_size: Side of all kernels, odd.
        activation: relu, mish, elu or tanh, where the group permutes channels.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels (fields).
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
        group: Group | str | None = None,
        restrict: bool = True,
        multiplicity: str = "fields",
        frequencies: Sequence[int] = (0, 1),
        vectors: str = "gated",
        pooling: str = "auto",
        frequency_cutoff: int | None = None,
        kernel_size: int = 3,
        activation: str = "relu",
        norm_groups: int = 4,
        norm_first: bool = False,
        scale_norm: bool = False,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        a, b, c = check_widths(widths, 3)
        design = choose_design(
            BlockOptions(activation, norm_groups, norm_first, kernel_size),
            group,
            multiplicity=multiplicity,
            frequencies=tuple(frequencies),
            vectors=vectors,
            pooling=pooling,
            frequency_cutoff=frequency_cutoff,
        )

        def residual(kind: Any, width: int) -> nn.Module:
            body = nn.Sequential(design.block(kind, width), design.block(kind, width))
            return Residual(body, scale_norm=design.scale_norm(kind) if scale_norm else None)

        image = design.image(in_channels)
        self.conv1 = design.block(image, a)
        kind = design.hidden(image, a)
        self.conv2 = design.block(kind, b, pool=True)
        kind = design.hidden(kind, b)
        self.res1 = residual(kind, b)
        self.restriction, kind = design.restricted(kind) if restrict else (nn.Identity(), kind)
        self.conv3 = design.block(kind, c, pool=True)
        kind = design.hidden(kind, c)
        self.conv4 = design.block(kind, c)
        self.res2 = residual(kind, c)
        self.invariant, channels = design.invariant(kind)
        self.pool = GlobalMaxPool()
        self.classifier = nn.Linear(channels, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer sees: (B, in_channels, H, W) → (B, channels)."""
        x = self.restriction(self.res1(self.conv2(self.conv1(x))))
        return self.pool(self.invariant(self.res2(self.conv4(self.conv3(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
