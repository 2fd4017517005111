# SPDX-License-Identifier: Apache-2.0
"""Networks out of steerable layers: what a block, a pooling or a width means for each group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from confide.equivariant import (
    BlurPool2d,
    CyclicGroup,
    DihedralGroup,
    FieldGroupNorm,
    FieldMaxPool2d,
    FieldType,
    GatedNonlinearity,
    Group,
    InvariantPool,
    NormMaxPool2d,
    NormNonlinearity,
    PointwiseNonlinearity,
    Representation,
    Restriction,
    ScaleNorm,
    SteerableConv2d,
    SteerableModule,
    SteerableSequential,
    Upsample2d,
    induced,
    irrep,
    parse_group,
    regular,
    trivial,
)
from confide.equivariant.kernels import kernel_basis
from confide.errors import ConfigError
from confide.models.blocks import activation, dividing
from confide.models.design import BlockOptions, Design, PlainDesign
from confide.models.options import check_choice, check_count

Multiplicity = Literal["fields", "parameters", "channels"]
Vectors = Literal["gated", "gated-own", "norm"]
Pooling = Literal["auto", "max", "blur"]


@dataclass(frozen=True)
class SteerableOptions:
    """What a group leaves open.

    Attributes:
        multiplicity: How many fields a width c means: "fields": c of them; "parameters": c·√(k²/K) for K
            kernels of side k from field to field, which keeps the parameters of the plain network
            (√(1.5N)/N·c for C_N and 3×3); "channels": c channels in all.
        frequencies: Of the hidden fields of SO(2) and O(2).
        vectors: Non-linearity of SO(2) and O(2): "gated" by the field's own scalars, "gated-own" with a
            gate of its own for each vector (Hölzl et al. 2022), or "norm".
        pooling: "auto": max pooling, and for SO(2) and O(2) blur pooling.
        frequency_cutoff: Highest angular frequency of the kernels per pixel of radius.
    """

    multiplicity: str = "fields"
    frequencies: tuple[int, ...] = (0, 1)
    vectors: str = "gated"
    pooling: str = "auto"
    frequency_cutoff: int | None = None

    def __post_init__(self) -> None:
        check_choice("multiplicity", self.multiplicity, get_args(Multiplicity))
        check_choice("vectors", self.vectors, get_args(Vectors))
        check_choice("pooling", self.pooling, get_args(Pooling))
        for k in self.frequencies:
            check_count("frequencies", k, least=0)


def make_design(
    group: Group | str | None, blocks: BlockOptions, steerable: SteerableOptions
) -> Design[int] | Design[FieldType]:
    """The design of a group given by value or name; without a group, or with the name "none", the plain one.

    Raises:
        ConfigError: If the name means no group, or an option has no meaning.
    """
    found = parse_group(group)
    return PlainDesign(blocks) if found is None else SteerableDesign(found, blocks, steerable)


class SteerableDesign(Design[FieldType]):
    """Steerable convolutions; a kind is a field type."""

    def __init__(self, group: Group, blocks: BlockOptions, options: SteerableOptions) -> None:
        self.group, self.blocks, self.options = group, blocks, options

    def image(self, channels: int) -> FieldType:
        return FieldType(trivial(self.group), channels)

    def hidden(self, kind: FieldType, width: int) -> FieldType:
        rep = self._hidden_rep(kind.group)
        return FieldType(rep, self._multiplicity(rep, width))

    def block(
        self, kind: FieldType, width: int, *, pool: bool = False, kernel_size: int | None = None
    ) -> nn.Module:
        hidden = self.hidden(kind, width)
        act = self._activation(hidden)
        conv = self._conv(kind, act.in_type, kernel_size or self.blocks.kernel_size)
        layers: dict[str, SteerableModule] = {"conv": conv}
        if self.blocks.norm_first:
            layers["norm"] = self._norm(act.in_type)
        layers["act"] = act
        if not self.blocks.norm_first:
            layers["norm"] = self._norm(hidden)
        if pool:
            layers["pool"] = self.pool(hidden)
        return SteerableSequential(layers)

    def pool(self, kind: FieldType) -> SteerableModule:
        permuted = kind.rep.pointwise == "any"
        if self.options.pooling == "blur" or (self.options.pooling == "auto" and not permuted):
            return BlurPool2d(kind)
        return FieldMaxPool2d(kind) if permuted else NormMaxPool2d(kind)

    def rise(self, kind: FieldType, width: int) -> nn.Module:
        return SteerableSequential(
            {"up": Upsample2d(kind), "conv": self._conv(kind, self.hidden(kind, width), 3)}
        )

    def joined(self, one: FieldType, other: FieldType) -> FieldType:
        return FieldType(one.rep, one.multiplicity + other.multiplicity)

    def projection(self, kind: FieldType, width: int) -> nn.Module:
        return self._conv(kind, self.hidden(kind, width), 1)

    def scale_norm(self, kind: FieldType) -> nn.Module:
        return ScaleNorm(kind, dividing(kind.multiplicity, self.blocks.norm_groups))

    def restricted(self, kind: FieldType) -> tuple[nn.Module, FieldType]:
        n = kind.group.rotations
        if n == 0 or n % 2:
            return nn.Identity(), kind
        layer = Restriction(kind, (DihedralGroup if kind.group.reflections else CyclicGroup)(n // 2))
        return layer, layer.out_type

    def invariant(self, kind: FieldType) -> tuple[nn.Module, int]:
        layer = InvariantPool(kind)
        return layer, layer.out_type.size

    def _conv(self, kind: FieldType, out: FieldType, kernel_size: int) -> SteerableConv2d:
        cutoff = self.options.frequency_cutoff
        return SteerableConv2d(kind, out, kernel_size, frequency_cutoff=cutoff if kernel_size > 1 else None)

    def _norm(self, kind: FieldType) -> SteerableModule:
        return FieldGroupNorm(kind, dividing(kind.multiplicity, self.blocks.norm_groups))

    def _activation(self, hidden: FieldType) -> SteerableModule:
        if hidden.rep.pointwise == "any":
            return PointwiseNonlinearity(hidden, activation(self.blocks.activation))
        if self.options.vectors == "norm":
            return NormNonlinearity(hidden)
        return GatedNonlinearity(hidden, "own" if self.options.vectors == "gated-own" else "shared")

    def _hidden_rep(self, group: Group) -> Representation:
        if group.finite:
            return regular(group)
        if not self.options.frequencies:
            raise ConfigError(
                f"{group} needs hidden frequencies", remedy="Give for example frequencies: [0, 1]."
            )
        if group.reflections:
            return induced(group, *self.options.frequencies)
        first, *others = (irrep(group, k) for k in self.options.frequencies)
        return sum(others, first)

    def _multiplicity(self, rep: Representation, width: int) -> int:
        match self.options.multiplicity:
            case "fields":
                return width
            case "channels":
                return max(1, round(width / rep.size))
            case _:
                side = self.blocks.kernel_size
                kernels = len(kernel_basis(rep, rep, side, self.options.frequency_cutoff).kernels)
                return max(1, math.floor(width * math.sqrt(side**2 / kernels)))
