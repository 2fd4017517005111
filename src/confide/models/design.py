# SPDX-License-Identifier: Apache-2.0
"""What the parts of a network are made of: ordinary or steerable layers behind one interface.

An architecture says what follows what; a design says what a convolution is. The kind of a feature map is its
number of channels, or the type of its fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import nn

from confide.models.blocks import ConvBlock, Rise, group_norm
from confide.models.options import check_count

if TYPE_CHECKING:
    from confide.equivariant import Group

Kind = TypeVar("Kind")
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a network have in common."""

    activation: str = "relu"
    norm_groups: int = 4
    norm_first: bool = False
    kernel_size: int = 3

    def __post_init__(self) -> None:
        check_count("norm_groups", self.norm_groups)
        check_count("kernel_size", self.kernel_size)


class Design(ABC, Generic[Kind]):
    """How the parts of a network are made; every part comes with the kind of its output."""

    @abstractmethod
    def image(self, channels: int) -> Kind:
        """The kind of an image."""

    @abstractmethod
    def block(
        self, kind: Kind, width: int, *, pool: bool = False, kernel_size: int | None = None
    ) -> nn.Module:
        """Convolution, activation, normalisation, and perhaps a halving of the resolution."""

    @abstractmethod
    def hidden(self, kind: Kind, width: int) -> Kind:
        """The kind that a block of this width gives."""

    @abstractmethod
    def pool(self, kind: Kind) -> nn.Module:
        """A halving of the resolution."""

    @abstractmethod
    def rise(self, kind: Kind, width: int) -> nn.Module:
        """A doubling of the resolution, to features of this width."""

    @abstractmethod
    def joined(self, one: Kind, other: Kind) -> Kind:
        """The kind of two feature maps one after another along the channels."""

    @abstractmethod
    def projection(self, kind: Kind, width: int) -> nn.Module:
        """A linear map at each pixel."""

    @abstractmethod
    def scale_norm(self, kind: Kind) -> nn.Module:
        """Normalisation of a residual sum."""

    @abstractmethod
    def restricted(self, kind: Kind) -> tuple[nn.Module, Kind]:
        """The same features, seen by half the rotations, where there are any."""

    @abstractmethod
    def invariant(self, kind: Kind) -> tuple[nn.Module, int]:
        """Channels that the group leaves alone, and how many."""


class PlainDesign(Design[int]):
    """Ordinary convolutions; a kind is a number of channels.

    Args:
        options: What all blocks have in common.
        dims: 2 for images, 3 for volumes.
        transposed: Rise by a transposed convolution instead of interpolation.
    """

    def __init__(self, options: BlockOptions, *, dims: int = 2, transposed: bool = True) -> None:
        self.options, self.dims, self.transposed = options, dims, transposed

    def image(self, channels: int) -> int:
        return channels

    def hidden(self, kind: int, width: int) -> int:
        return width

    def block(
        self, kind: int, width: int, *, pool: bool = False, kernel_size: int | None = None
    ) -> nn.Module:
        o = self.options
        size = kernel_size or o.kernel_size
        conv = CONV[self.dims](kind, width, size, padding=size // 2)
        norm = group_norm(width, o.norm_groups)
        return ConvBlock(
            conv, norm, o.activation, norm_first=o.norm_first, pool=self.pool(width) if pool else None
        )

    def pool(self, kind: int) -> nn.Module:
        return POOL[self.dims](2)

    def rise(self, kind: int, width: int) -> nn.Module:
        return Rise(kind, width, dims=self.dims, transposed=self.transposed)

    def joined(self, one: int, other: int) -> int:
        return one + other

    def projection(self, kind: int, width: int) -> nn.Module:
        return CONV[self.dims](kind, width, 1)

    def scale_norm(self, kind: int) -> nn.Module:
        return group_norm(kind, self.options.norm_groups)

    def restricted(self, kind: int) -> tuple[nn.Module, int]:
        return nn.Identity(), kind

    def invariant(self, kind: int) -> tuple[nn.Module, int]:
        return nn.Identity(), kind


def choose_design(blocks: BlockOptions, group: Group | str | None, **steerable: Any) -> Design[Any]:
    """Ordinary without a group, else steerable; the latter's module is loaded only then."""
    if group is None:
        return PlainDesign(blocks)
    from confide.models.steerable import SteerableOptions, make_design

    return make_design(group, blocks, SteerableOptions(**steerable))
