# SPDX-License-Identifier: Apache-2.0
"""Poolings over the group: from fields to channels that the group leaves alone."""

from __future__ import annotations

import torch
from torch import Tensor

from confide.equivariant.fields import FieldType, SteerableModule
from confide.equivariant.lengths import lengths
from confide.equivariant.representations import Block, Induced, Irrep, Quotient, trivial
from confide.errors import ConfigError


class InvariantPool(SteerableModule):
    """One invariant channel for each block of each field, by the pooling its representation asks for.

    Regular and quotient: the largest channel (group pooling). Irreducible: the norm (norm pooling).
    Induced: the larger of the two norms (induced norm pooling). (B, C, H, W) → (B, fields · blocks, H, W).
    """

    def __init__(self, in_type: FieldType) -> None:
        channels = in_type.multiplicity * len(in_type.rep.blocks)
        super().__init__(in_type, FieldType(trivial(in_type.group), channels))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        parts = x.unflatten(1, (self.in_type.multiplicity, -1)).split(list(self.in_type.rep.sizes), 2)
        pooled = [_pool(block, part) for block, part in zip(self.in_type.rep.blocks, parts, strict=True)]
        return torch.cat(pooled, 2).flatten(1, 2)


class GroupPool(InvariantPool):
    """The largest channel of each regular or quotient field.

    Raises:
        ConfigError: If a field is of another kind.
    """

    def __init__(self, in_type: FieldType) -> None:
        _require(in_type, Quotient, "group pooling", "NormPool or InducedNormPool")
        super().__init__(in_type)


class NormPool(InvariantPool):
    """The norm of each irreducible field; scalars that nothing flips stay as they are.

    Raises:
        ConfigError: If a field is of another kind.
    """

    def __init__(self, in_type: FieldType) -> None:
        _require(in_type, Irrep, "norm pooling", "GroupPool or InducedNormPool")
        super().__init__(in_type)


class InducedNormPool(InvariantPool):
    """The larger of the two norms of each induced field.

    Raises:
        ConfigError: If a field is of another kind.
    """

    def __init__(self, in_type: FieldType) -> None:
        _require(in_type, Induced, "induced norm pooling", "GroupPool or NormPool")
        super().__init__(in_type)


def _require(in_type: FieldType, kind: type[Block], what: str, instead: str) -> None:
    if not all(isinstance(block, kind) for block in in_type.rep.blocks):
        raise ConfigError(
            f"{what} has no meaning for {in_type.rep}", remedy=f"Use {instead}, or InvariantPool."
        )


def _pool(block: Block, part: Tensor) -> Tensor:
    """(B, fields, size, H, W) → (B, fields, 1, H, W)."""
    match block:
        case Irrep(k=0, parity=0):
            return part
        case Irrep():
            return lengths(part, 2, keepdim=True)
        case Induced(k=k) if k > 0:
            return lengths(part.unflatten(2, (2, -1)), 3).amax(2, keepdim=True)
        case _:
            return part.amax(2, keepdim=True)
