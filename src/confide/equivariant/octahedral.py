# SPDX-License-Identifier: Apache-2.0
"""Convolutions of volumes that commute with the 24 rotations of a cube.

The octahedral rotation group O maps a cubic grid on itself, so filters are turned by moving their taps and
everything is exact; no harmonics are needed, and `kernels` has no part in this. Tensors are plain
(B, C, D, H, W). A regular field has a channel for each rotation h, and a rotation g acts on fields by
(g·f)_h(x) = f_{g⁻¹h}(g⁻¹x). A filter K is equivariant exactly if K_{a,b}(p) = W_{a⁻¹b}(a⁻¹p) for some free
filters W. Winkels & Cohen (2018), arXiv:1804.04656.

    image, hidden = OctahedralFields(1, regular=False), OctahedralFields(4)
    layers = nn.Sequential(
        OctahedralConv3d(image, hidden),  # lifting
        nn.ReLU(),
        OctahedralGroupNorm(hidden, groups=2),
        nn.MaxPool3d(2),  # exact on even sides
        OctahedralConv3d(hidden, hidden),
        OctahedralPool(hidden),
    )

Per-sample gradients need no rule of their own: the layers compute their filters from their parameters by
torch functions, and the gradient engine has rules for the convolution and the norm that apply them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.equivariant.fields import at_least
from confide.errors import ConfigError

ORDER = 24


@cache
def rotations() -> npt.NDArray[np.int64]:
    """The rotations of the grid as signed permutation matrices, (24, 3, 3); the identity first."""
    found: list[npt.NDArray[np.int64]] = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3), dtype=np.int64)
            matrix[range(3), axes] = signs
            if round(np.linalg.det(matrix)) == 1:
                found.append(matrix)
    return np.stack(found)


@dataclass(frozen=True)
class OctahedralFields:
    """`multiplicity` fields, one after another along the channels: regular, or scalars that nothing turns.

    Raises:
        ConfigError: If there is not at least one field.

    >>> print(OctahedralFields(4), OctahedralFields(4).size)
    4 × (O: regular) 96
    """

    multiplicity: int
    regular: bool = True

    def __post_init__(self) -> None:
        at_least("multiplicity", self.multiplicity, 1)

    @property
    def channels(self) -> int:
        """Channels of one field."""
        return ORDER if self.regular else 1

    @property
    def size(self) -> int:
        """Channels of all fields together."""
        return self.multiplicity * self.channels

    def __str__(self) -> str:
        return f"{self.multiplicity} × (O: {'regular' if self.regular else 'trivial'})"


class _Layer(nn.Module):
    """A layer from fields of `in_type` to fields of `out_type`."""

    def __init__(self, in_type: OctahedralFields, out_type: OctahedralFields) -> None:
        super().__init__()
        self.in_type, self.out_type = in_type, out_type

    def check_input(self, x: Tensor) -> None:
        """Refuse a tensor that cannot hold fields of `in_type`.

        Raises:
            ConfigError: Names the layer, its type and the tensor's shape.
        """
        if x.dim() != 5 or x.shape[1] != self.in_type.size:
            raise ConfigError(
                f"{type(self).__name__} takes (B, {self.in_type.size}, D, H, W), not {tuple(x.shape)}",
                why=f"Its input is {self.in_type}",
            )

    def extra_repr(self) -> str:
        return f"{self.in_type} → {self.out_type}"


class OctahedralConv3d(_Layer):
    """A convolution that commutes with the rotations of a cube: from scalars (lifting) or regular fields.

    (B, in_type.size, D, H, W) → (B, out_type.size, D', H', W'), at stride 1. Parameters: `weight`, (fields
    out, fields in, 1 or 24, k, k, k), every number of which stands 24 times in the filter, and `bias`,
    (fields out,). DP-SGD clips and noises these parameters.

    Args:
        in_type: Type of the input fields.
        out_type: Type of the output fields; regular.
        kernel_size: Side of the kernel, odd.
        padding: Zeros around the volume; default: as many as keep its size.
        bias: Add a learned number to every channel of a field.

    Raises:
        ConfigError: If the side is even, the padding negative, or the output not regular.
    """

    index: Tensor

    def __init__(
        self,
        in_type: OctahedralFields,
        out_type: OctahedralFields,
        kernel_size: int = 3,
        *,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(in_type, out_type)
        if at_least("kernel_size", kernel_size, 1) % 2 == 0:
            raise ConfigError(
                f"an octahedral kernel cannot have side {kernel_size}",
                why="Only an odd side has a centre to turn about",
                remedy="Give an odd number such as 3 or 5.",
            )
        if not out_type.regular:
            raise ConfigError(
                f"an octahedral convolution cannot give {out_type}",
                remedy="Give regular fields, and OctahedralPool behind them.",
            )
        self.kernel_size = kernel_size
        self.padding = kernel_size // 2 if padding is None else at_least("padding", padding, 0)
        # A copy: the cached array serves all layers, and `from_numpy` would share it.
        index = torch.from_numpy(_taps(kernel_size, in_type.regular).reshape(-1).copy())
        self.register_buffer("index", index, persistent=False)
        shape = (out_type.multiplicity, in_type.multiplicity, in_type.channels, *(kernel_size,) * 3)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(out_type.multiplicity)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's rule: every output channel gets variance 2 from inputs of variance 1."""
        nn.init.normal_(self.weight, std=math.sqrt(2 / (self.in_type.size * self.kernel_size**3)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def expand(self) -> tuple[Tensor, Tensor | None]:
        """The ordinary filter (C_out, C_in, k, k, k) and bias (C_out,)."""
        m_out, m_in = self.weight.shape[:2]
        taps = self.weight.flatten(2).index_select(2, self.index)
        spread = taps.reshape(m_out, m_in, ORDER, self.in_type.channels, -1).transpose(1, 2)
        filters = spread.reshape(self.out_type.size, self.in_type.size, *self.weight.shape[3:])
        return filters, None if self.bias is None else self.bias.repeat_interleave(ORDER)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        if self.kernel_size > min(x.shape[2:]) + 2 * self.padding:
            raise ConfigError(
                f"a kernel of side {self.kernel_size} exceeds the {'×'.join(map(str, x.shape[2:]))} volume",
                where=f"OctahedralConv3d {self.in_type} → {self.out_type}",
                remedy="Take larger volumes, fewer poolings, or a smaller kernel.",
            )
        filters, bias = self.expand()
        return F.conv3d(x, filters, bias, padding=self.padding)


class OctahedralGroupNorm(_Layer):
    """GroupNorm of whole fields, with one scale and shift for each field. (B, C, D, H, W) unchanged.

    Args:
        in_type: Type of the fields.
        groups: How many groups the fields are put in.
        eps: Added to the variance.

    Raises:
        ConfigError: If the fields cannot be put in that many equal groups.
    """

    def __init__(self, in_type: OctahedralFields, groups: int, *, eps: float = 1e-5) -> None:
        super().__init__(in_type, in_type)
        if in_type.multiplicity % at_least("groups", groups, 1):
            raise ConfigError(
                f"{in_type.multiplicity} fields cannot be put in {groups} equal groups",
                remedy=f"Give a divisor of {in_type.multiplicity}.",
            )
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(in_type.multiplicity))
        self.bias = nn.Parameter(torch.zeros(in_type.multiplicity))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        scale, shift = (p.repeat_interleave(self.in_type.channels) for p in (self.weight, self.bias))
        return F.group_norm(x, self.groups, scale, shift, self.eps)


class OctahedralPool(_Layer):
    """The largest channel of each regular field: scalars that turn with the volume, (B, fields, D, H, W)."""

    def __init__(self, in_type: OctahedralFields) -> None:
        super().__init__(in_type, OctahedralFields(in_type.multiplicity, regular=False))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return x.unflatten(1, (self.in_type.multiplicity, -1)).amax(2)


@cache
def _taps(kernel_size: int, regular: bool) -> npt.NDArray[np.int64]:
    """Which number of W, as (channel, k, k, k) flattened, stands in K_{a,b}(p): (24, 1 or 24, k³)."""
    group, k = rotations(), kernel_size
    points = np.stack(np.meshgrid(*[np.arange(k) - k // 2] * 3, indexing="ij"), -1).reshape(-1, 3)
    index = np.empty((ORDER, ORDER if regular else 1, k**3), dtype=np.int64)
    for a, turn in enumerate(group):
        back = turn.T  # the inverse of a rotation
        places = (points @ back.T + k // 2) @ np.array([k * k, k, 1])
        for b in range(index.shape[1]):
            channel = np.abs(group - back @ group[b]).sum((1, 2)).argmin() if regular else 0
            index[a, b] = channel * k**3 + places
    return index
