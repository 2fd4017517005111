# SPDX-License-Identifier: Apache-2.0
"""Non-linearities that commute with their representation.

Weiler & Cesa (2019), arXiv:1911.08251, section 2.6.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from confide.equivariant.fields import FieldType, SteerableModule
from confide.equivariant.lengths import lengths
from confide.equivariant.representations import Block, Induced, Irrep, Quotient, Representation
from confide.errors import ConfigError

Gates = Literal["own", "shared"]
_ODD = (nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Identity)


class PointwiseNonlinearity(SteerableModule):
    """One function on every channel; right where the group permutes channels (regular, quotient, trivial).

    Args:
        in_type: Type of the fields.
        function: The function, for example `nn.ReLU()`; it must not work in place.

    Raises:
        ConfigError: If the representation turns or flips channels, so that the function would break
            equivariance.
    """

    def __init__(self, in_type: FieldType, function: nn.Module) -> None:
        super().__init__(in_type, in_type)
        allowed = in_type.rep.pointwise
        if allowed == "none" or (allowed == "odd" and not isinstance(function, _ODD)):
            raise ConfigError(
                f"{type(function).__name__} on single channels is not equivariant for {in_type.rep}",
                why="The group mixes these channels" if allowed == "none" else "The group flips their sign",
                remedy="Use GatedNonlinearity or NormNonlinearity"
                + (", or an odd function such as Tanh." if allowed == "odd" else "."),
            )
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.function(x)

    def export(self) -> nn.Module:
        return self.function


class GatedNonlinearity(SteerableModule):
    """(Induced) gated non-linearity: every vector is multiplied by the sigmoid of a scalar.

    Scalars gate themselves, s · sigmoid(s). A vector of an irreducible representation has a scalar gate;
    the two vectors of an induced one have one gate each, which a mirror swaps with them. Weiler & Cesa
    (2019).

    Args:
        out_type: Type of the fields that come out.
        gates: "own": the input holds a gate for every vector, in front of each field, so `in_type` is
            larger than `out_type`; "shared": the scalars of the field gate its vectors, which costs no
            channels.

    Raises:
        ConfigError: If gates are to be shared, but the field has no scalars of the right kind.
    """

    gate_index: Tensor

    def __init__(self, out_type: FieldType, gates: Gates = "own") -> None:
        if gates not in get_args(Gates):
            raise ConfigError(f"gates cannot be {gates!r}", remedy="Choose own or shared.")
        rep = out_type.rep
        extra = [_gate_of(b) for b in rep.blocks if _turns(b, rep)] if gates == "own" else []
        inner = Representation(rep.group, (*extra, *rep.blocks))
        super().__init__(FieldType(inner, out_type.multiplicity), out_type)
        self.gates = gates
        index = torch.tensor(_gate_channels(rep, inner, len(extra)))
        self.gate_range = (int(index.min()), int(index.max()) + 1)
        self.register_buffer("gate_index", index - index.min(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        fields = x.unflatten(1, (self.in_type.multiplicity, -1))
        values = fields[:, :, self.in_type.rep.size - self.out_type.rep.size :]
        gates = torch.sigmoid(fields[:, :, slice(*self.gate_range)])
        return (values * gates.index_select(2, self.gate_index)).flatten(1, 2)


class NormNonlinearity(SteerableModule):
    """v → v · relu(|v| + b)/|v| on every vector; b is learned, one for a block of a field.

    Raises:
        ConfigError: If the representation permutes channels, where a pointwise function is right and cheaper.
    """

    def __init__(self, in_type: FieldType) -> None:
        super().__init__(in_type, in_type)
        if any(isinstance(block, Quotient) for block in in_type.rep.blocks):
            raise ConfigError(
                f"{in_type.rep} permutes channels and has no vectors", remedy="Use PointwiseNonlinearity."
            )
        self.bias = nn.Parameter(torch.zeros(in_type.multiplicity, len(in_type.rep.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        fields = x.unflatten(1, (self.in_type.multiplicity, -1))
        parts: list[Tensor] = []
        split = fields.split(list(self.in_type.rep.sizes), 2)
        for i, (block, part) in enumerate(zip(self.in_type.rep.blocks, split, strict=True)):
            vectors = part.unflatten(2, (2 if isinstance(block, Induced) else 1, -1))
            length = lengths(vectors, 3, keepdim=True)
            factor = torch.relu(length + self.bias[:, i].view(1, -1, 1, 1, 1, 1)) / (length + 1e-6)
            parts.append((vectors * factor).flatten(2, 3))
        return torch.cat(parts, 2).flatten(1, 2)


def _turns(block: Block, rep: Representation) -> bool:
    """Whether the group does more to this block than permute its channels."""
    return block.pointwise(rep.group) != "any"


def _gate_of(block: Block) -> Block:
    return Induced(0) if isinstance(block, Induced) else Irrep(0)


def _gate_channels(rep: Representation, inner: Representation, own: int) -> list[int]:
    """For each channel of a field, the channel of the input field that gates it."""
    starts = [sum(inner.sizes[:i]) for i in range(len(inner.blocks))]
    gates = iter(range(own))
    index: list[int] = []
    for i, (block, size) in enumerate(zip(rep.blocks, rep.sizes, strict=True), start=own):
        if not _turns(block, rep):
            index += range(starts[i], starts[i] + size)
            continue
        wanted = _gate_of(block)
        found = (
            next(gates, None) if own else next((j for j, b in enumerate(inner.blocks) if b == wanted), None)
        )
        if found is None:
            raise ConfigError(
                f"{block} needs a {wanted} block in the same field to share its gate",
                where=str(rep),
                remedy='Add frequency 0 to the field, or take gates="own".',
            )
        copies = 2 if isinstance(block, Induced) else 1
        index += [starts[found] + c for c in range(copies) for _ in range(size // copies)]
    return index
