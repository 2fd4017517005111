# SPDX-License-Identifier: Apache-2.0
"""Field types, and what every layer between fields has in common.

Tensors are plain (B, C, H, W); the layer knows what the channels mean, the tensor does not.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from confide.equivariant.groups import Group
from confide.equivariant.representations import Representation
from confide.errors import ConfigError


@dataclass(frozen=True)
class FieldType:
    """`multiplicity` fields of a representation, one after another along the channels.

    Raises:
        ConfigError: If there is not at least one field.

    >>> from confide.equivariant import CyclicGroup, regular
    >>> print(FieldType(regular(CyclicGroup(8)), 3), FieldType(regular(CyclicGroup(8)), 3).size)
    3 × (C8: regular) 24
    """

    rep: Representation
    multiplicity: int

    def __post_init__(self) -> None:
        if not isinstance(self.multiplicity, int) or self.multiplicity is True or self.multiplicity < 1:
            raise ConfigError(f"there cannot be {self.multiplicity!r} fields", remedy="Give at least 1.")

    @property
    def group(self) -> Group:
        """The group that acts on the fields."""
        return self.rep.group

    @property
    def size(self) -> int:
        """Channels of all fields together."""
        return self.rep.size * self.multiplicity

    def __str__(self) -> str:
        return f"{self.multiplicity} × ({self.rep})"


class SteerableModule(nn.Module):
    """A layer from fields of `in_type` to fields of `out_type`."""

    def __init__(self, in_type: FieldType, out_type: FieldType) -> None:
        super().__init__()
        self.in_type = in_type
        self.out_type = out_type

    def check_input(self, x: Tensor) -> None:
        """Refuse a tensor that cannot hold fields of `in_type`.

        Raises:
            ConfigError: Names the layer, its type and the tensor's shape.
        """
        if x.dim() != 4 or x.shape[1] != self.in_type.size:
            raise ConfigError(
                f"{type(self).__name__} takes (B, {self.in_type.size}, H, W), not {tuple(x.shape)}",
                why=f"Its input is {self.in_type}",
            )

    def export(self) -> nn.Module:
        """The same map as an ordinary module; itself, if it is ordinary enough."""
        return self

    def extra_repr(self) -> str:
        return f"{self.in_type} → {self.out_type}"


class SteerableSequential(nn.Sequential):
    """Steerable layers one after another; each must take what the one before it gives.

    Raises:
        ConfigError: Names the two layers whose types differ.
    """

    def __init__(self, layers: dict[str, SteerableModule]) -> None:
        super().__init__(OrderedDict(layers))
        before: tuple[str, SteerableModule] | None = None
        for name, layer in layers.items():
            if before is not None:
                check_types(before[1].out_type, layer.in_type, where=f"{before[0]} → {name}")
            before = (name, layer)
        values = list(layers.values())
        if not values:
            raise ConfigError("a sequence needs at least one layer")
        self.in_type, self.out_type = values[0].in_type, values[-1].out_type


def check_types(given: FieldType, wanted: FieldType, *, where: str) -> None:
    """Refuse to join two layers whose types differ.

    Raises:
        ConfigError: Names both types.
    """
    if given != wanted:
        raise ConfigError(f"gets {given}, but takes {wanted}", where=where)


def at_least(name: str, value: object, least: int) -> int:
    """The value, if it is a whole number that is not below the least.

    Raises:
        ConfigError: If not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} cannot be {value!r}", remedy=f"Give a whole number of at least {least}.")
    return value
