# SPDX-License-Identifier: Apache-2.0
"""ResNet-18 with GroupNorm, under torchvision's state-dict names; or steerable.

He, Zhang, Ren, Sun (2015), arXiv:1512.03385; GroupNorm in place of BatchNorm: Wu & He (2018),
arXiv:1803.08494.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn

from confide.errors import ModelError
from confide.models.blocks import Residual, group_norm
from confide.models.blocks import activation as make_activation
from confide.models.design import BlockOptions, Design, PlainDesign, choose_design
from confide.models.options import check_choice, check_count, check_widths

if TYPE_CHECKING:
    from confide.equivariant import Group

Stem = Literal["imagenet", "small"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the first convolution has the stride."""

    def __init__(self, channels: int, width: int, *, stride: int, norm_groups: int, act: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = group_norm(width, norm_groups)
        self.act1 = make_activation(act)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = group_norm(width, norm_groups)
        self.act2 = make_activation(act)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), group_norm(width, norm_groups)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + shortcut)


class ResNet18(nn.Module):
    """ResNet-18 on images (B, in_channels, H, W); returns class scores (B, classes).

    With the default widths and stem, and no group, the names and shapes of its parameters are torchvision's
    (`bn1` and the like are GroupNorms), so that `load_published` takes the published weights.

    With a group the convolutions are steerable and the scores do not change when the image is turned
    (mirrored) by it. Strides give way to poolings that keep the grid's centre, and convolutions come before
    their activation and that before its normalisation.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        widths: Channels (or fields) of the four stages.
        stem: "imagenet" (7×7 stride 2, then max pooling) or "small" (3×3 stride 1), for images of some
            28 pixels.
        group: A group or its name; None or "none": ordinary convolutions.
        multiplicity: How many fields a width means: "fields", "parameters" or "channels".
        frequencies: Of the hidden fields of SO(2) and O(2).
        vectors: Non-linearity of SO(2) and O(2): "gated", "gated-own" or "norm".
        pooling: "auto", "max" or "blur", with a group.
        activation: relu, mish, elu or tanh, where the group permutes channels.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels (fields).

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
        group: Group | str | None = None,
        multiplicity: str = "channels",
        frequencies: Sequence[int] = (0, 1),
        vectors: str = "gated",
        pooling: str = "auto",
        activation: str = "relu",
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        widths = check_widths(widths, 4)
        small = check_choice("stem", stem, get_args(Stem)) == "small"
        design = choose_design(
            BlockOptions(activation, norm_groups),
            group,
            multiplicity=multiplicity,
            frequencies=tuple(frequencies),
            vectors=vectors,
            pooling=pooling,
        )
        if isinstance(design, PlainDesign):
            channels = self._ordinary(in_channels, widths, small, design.options)
        else:
            channels = self._steerable(in_channels, widths, small, design)
        self.fc = nn.Linear(channels, classes)

    def _ordinary(self, in_channels: int, widths: tuple[int, ...], small: bool, options: BlockOptions) -> int:
        act, groups = options.activation, options.norm_groups
        self.conv1 = nn.Conv2d(in_channels, widths[0], *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = group_norm(widths[0], groups)
        self.act1 = make_activation(act)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Module] = []
        channels = widths[0]
        for i, width in enumerate(widths):
            first = BasicBlock(channels, width, stride=2 if i else 1, norm_groups=groups, act=act)
            stages.append(
                nn.Sequential(first, BasicBlock(width, width, stride=1, norm_groups=groups, act=act))
            )
            channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.invariant = nn.Identity()
        return channels

    def _steerable(self, in_channels: int, widths: tuple[int, ...], small: bool, design: Design[Any]) -> int:
        image = design.image(in_channels)
        kind = design.hidden(image, widths[0])
        self.conv1 = design.block(image, widths[0], pool=not small, kernel_size=3 if small else 7)
        self.bn1, self.act1 = nn.Identity(), nn.Identity()  # parts of the block
        self.maxpool = nn.Identity() if small else design.pool(kind)
        stages: list[nn.Module] = []
        for i, width in enumerate(widths):
            wide = design.hidden(kind, width)
            first = Residual(
                nn.Sequential(design.block(kind, width), design.block(wide, width)),
                shortcut=design.projection(kind, width) if wide != kind else None,
            )
            second = Residual(nn.Sequential(design.block(wide, width), design.block(wide, width)))
            stages.append(nn.Sequential(design.pool(kind) if i else nn.Identity(), first, second))
            kind = wide
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.invariant, channels = design.invariant(kind)
        return channels

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer sees: (B, in_channels, H, W) → (B, channels)."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.invariant(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def load_published(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy published weights into a model wherever name and shape agree; BatchNorm's statistics have no use.

    A first convolution for colour images is summed over its channels if the model takes one channel.

    Returns:
        Names of the model's parameters that kept their random weights, for example those of a new head.

    Raises:
        ModelError: If no name agrees at all: these are the weights of another architecture.
    """
    own = model.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in own:
            continue
        gray = own[name].dim() == 4 and own[name].shape[1] == 1 and value.dim() == 4 and value.shape[1] == 3
        fitted = value.sum(1, keepdim=True) if gray else value
        if fitted.shape == own[name].shape:
            taken[name] = fitted
    if not taken:
        raise ModelError(
            f"the weights fit no part of {type(model).__name__}",
            why=f"They hold {', '.join(sorted(state)[:3])} ...; it has {', '.join(sorted(own)[:3])} ...",
            remedy="Take weights of the same architecture.",
        )
    model.load_state_dict({**own, **taken})
    return tuple(name for name, _ in model.named_parameters() if name not in taken)
