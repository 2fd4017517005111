# SPDX-License-Identifier: Apache-2.0
"""The steerable convolution, and the restriction to a subgroup."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.equivariant.fields import FieldType, SteerableModule, at_least
from confide.equivariant.groups import Group
from confide.equivariant.kernels import KernelBasis, invariants, kernel_basis
from confide.equivariant.notes import note_once
from confide.equivariant.representations import Representation
from confide.equivariant.restriction import restrict_representation
from confide.errors import CheckpointError, ConfigError

KernelKey = tuple[Representation, Representation, int, int | None]


class SteerableConv2d(SteerableModule):
    """A convolution that commutes with its group: filter = basis · weight, then an ordinary convolution.

    (B, in_type.size, H, W) → (B, out_type.size, H', W'). The only parameters are `weight`, (fields out,
    fields in, K) coefficients of an orthonormal basis of K kernels, and `bias`, (fields out, invariants).
    The basis is a buffer that no state dict holds; in its place stands a fingerprint, so that weights of
    another basis are refused.

    Args:
        in_type: Type of the input fields.
        out_type: Type of the output fields.
        kernel_size: Side of the kernel, odd.
        stride: Step of the kernel. Exact only where the grid stays centred; `BlurPool2d` is exact on every
            grid.
        padding: Zeros around the image; default: as many as keep its size at stride 1.
        dilation: Distance of the kernel's samples.
        bias: Add a learned vector that the group leaves alone.
        frequency_cutoff: Highest angular frequency per pixel of radius; default: an anti-aliasing rule.

    Raises:
        ConfigError: If the groups differ, the side is even, or no kernel connects the types.
    """

    basis: Tensor
    orbit_index: Tensor | None
    bias_basis: Tensor

    def __init__(
        self,
        in_type: FieldType,
        out_type: FieldType,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        bias: bool = True,
        frequency_cutoff: int | None = None,
    ) -> None:
        super().__init__(in_type, out_type)
        exact = kernel_basis(in_type.rep, out_type.rep, kernel_size, frequency_cutoff)
        self.kernel_size = kernel_size
        self.stride = at_least("stride", stride, 1)
        self.dilation = at_least("dilation", dilation, 1)
        same = dilation * (kernel_size - 1) // 2
        self.padding = same if padding is None else at_least("padding", padding, 0)
        self.frequency_cutoff = frequency_cutoff
        self.functions = len(exact.kernels)
        self.register_buffer("basis", torch.empty(0), persistent=False)
        self.register_buffer("bias_basis", torch.empty(0), persistent=False)
        index = None if exact.free is None else torch.from_numpy(exact.free.orbits.reshape(-1).copy())
        self.register_buffer("orbit_index", index, persistent=False)
        self.weight = nn.Parameter(torch.empty(out_type.multiplicity, in_type.multiplicity, self.functions))
        fixed = len(invariants(out_type.rep))
        self.bias = nn.Parameter(torch.zeros(out_type.multiplicity, fixed)) if bias and fixed else None
        self._load_basis(self.weight)
        self.reset_parameters()

    @property
    def kernel_key(self) -> KernelKey:
        """What the basis depends on: the arguments of `kernel_basis`."""
        return self.in_type.rep, self.out_type.rep, self.kernel_size, self.frequency_cutoff

    def exact_basis(self) -> KernelBasis:
        """The basis in float64, as it was built."""
        return kernel_basis(*self.kernel_key)

    def reset_parameters(self) -> None:
        """He's rule: every output channel gets variance 2 from inputs of variance 1."""
        energy = np.square(self.exact_basis().kernels).sum((2, 3, 4))  # (K, d_out); rows sum to 1
        deviation = np.sqrt(2 / self.in_type.multiplicity / (energy @ energy.sum(0)))
        with torch.no_grad():
            self.weight.normal_().mul_(torch.from_numpy(deviation).to(self.weight))
            if self.bias is not None:
                self.bias.zero_()

    def expand(self) -> tuple[Tensor, Tensor | None]:
        """The ordinary filter (C_out, C_in, k, k) and bias (C_out,)."""
        m_out, m_in, _ = self.weight.shape
        d_out, d_in, k = self.out_type.rep.size, self.in_type.rep.size, self.kernel_size
        if self.orbit_index is None:
            spread = self.weight.reshape(m_out * m_in, -1) @ self.basis
            spread = spread.reshape(m_out, m_in, d_out, d_in, k * k).transpose(1, 2)
        else:
            _, f, pixels = self.basis.shape
            coefficients = self.weight.reshape(m_out * m_in, -1, f).index_select(1, self.orbit_index)
            coefficients = coefficients.reshape(m_out * m_in, d_out, d_in, f).transpose(0, 1)
            rows = torch.bmm(coefficients.reshape(d_out, -1, f), self.basis)
            spread = rows.reshape(d_out, m_out, m_in, d_in, pixels).transpose(0, 1)
        filters = spread.reshape(m_out * d_out, m_in * d_in, k, k)
        return filters, None if self.bias is None else (self.bias @ self.bias_basis).reshape(-1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        filters, bias = self.expand()
        return F.conv2d(x, filters, bias, self.stride, self.padding, self.dilation)

    def check(self, x: Tensor) -> None:
        """Refuse an input that the layer cannot take, and note one on which it is not exact.

        Raises:
            ConfigError: If the channels do not fit, or the kernel is larger than the padded image.
        """
        self.check_input(x)
        self._check_grid(x.shape[2], x.shape[3])

    def export(self) -> nn.Conv2d:
        """The same map as an ordinary convolution."""
        with torch.no_grad():
            filters, bias = self.expand()
        conv = nn.Conv2d(
            filters.shape[1],
            filters.shape[0],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            bias=bias is not None,
            device=filters.device,
            dtype=filters.dtype,
        )
        conv.weight = nn.Parameter(filters.contiguous(), requires_grad=self.weight.requires_grad)
        if bias is not None:
            conv.bias = nn.Parameter(bias.contiguous(), requires_grad=self.weight.requires_grad)
        return conv

    def fingerprint(self) -> Tensor:
        """Figures of the basis that another basis does not have: float64, (6,)."""
        kernels = self.exact_basis().kernels
        flat = kernels.reshape(len(kernels), -1)
        row = np.arange(len(flat))[:, None]
        column = np.arange(flat.shape[1])[None]
        probes = [
            float((flat * np.cos(a * row + b * column)).sum())
            for a, b in ((0.7, 1.3), (1.1, 0.4), (2.3, 0.9))
        ]
        return torch.tensor([*kernels.shape[:3], *probes], dtype=torch.float64)

    def get_extra_state(self) -> Tensor:
        return self.fingerprint()

    def set_extra_state(self, state: Any) -> None:
        own = self.fingerprint()
        if (
            not isinstance(state, Tensor)
            or state.shape != own.shape
            or not torch.allclose(state.to(own), own, rtol=1e-6, atol=1e-5)
        ):
            raise CheckpointError(
                "the weights belong to another kernel basis",
                where=f"SteerableConv2d {self.in_type} → {self.out_type}",
                why="Coefficients mean nothing without the basis they were trained with",
                remedy="Build the model with the group, representations and kernel size of its training.",
            )

    def extra_repr(self) -> str:
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, K={self.functions}"
        return f"{super().extra_repr()}, {sizes}"

    def _load_basis(self, like: Tensor) -> None:
        """Round the exact basis to a dtype: (K, d_out·d_in·k·k), or (d_out, f, k·k) in its compact form."""
        exact = self.exact_basis()
        dense = exact.kernels.reshape(self.functions, -1)
        loaded = dense if exact.free is None else exact.free.filters
        # Copies: the exact arrays serve all layers, and `from_numpy` would share them at float64.
        self.basis = torch.from_numpy(loaded.copy()).to(like.device, like.dtype)
        self.bias_basis = torch.from_numpy(invariants(self.out_type.rep).copy()).to(like.device, like.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> SteerableConv2d:
        before = self.basis.dtype
        super()._apply(fn, recurse)
        if self.basis.dtype != before:  # a basis rounded to float32 is no float64 basis
            self._load_basis(self.basis)
        return self

    def _check_grid(self, height: int, width: int) -> None:
        reach = self.dilation * (self.kernel_size - 1) + 1
        least = min(height, width)
        if reach > least + 2 * self.padding:
            raise ConfigError(
                f"a kernel of side {self.kernel_size} with reach {reach} exceeds the {height}×{width} image",
                where=f"SteerableConv2d {self.in_type} → {self.out_type}",
                remedy="Take larger images, fewer poolings, or a smaller kernel.",
            )
        if reach // 2 >= least:
            note_once(
                f"a kernel of side {self.kernel_size} with reach {reach} on {height}×{width} pixels: its "
                f"outer weights never meet the image. Take larger images, fewer poolings or a smaller kernel."
            )
        if self.stride > 1 and any(
            (side + 2 * self.padding - reach) % self.stride for side in (height, width)
        ):
            note_once(
                f"stride {self.stride} on {height}×{width} pixels reads off centre: the convolution is not "
                f"exactly equivariant there. Exact: an odd side, or stride 1 and then BlurPool2d."
            )


class Restriction(SteerableModule):
    """The same fields, seen by a subgroup: a reordering of channels and signs, with no arithmetic.

    What follows may then break the symmetries that the subgroup lacks: a network restricted from C_N to C_M
    is equivariant under C_M only.

    Raises:
        ConfigError: If it is no subgroup.
    """

    index: Tensor
    signs: Tensor | None

    def __init__(self, in_type: FieldType, subgroup: Group) -> None:
        restricted = restrict_representation(in_type.rep, subgroup)
        super().__init__(in_type, FieldType(restricted.rep, in_type.multiplicity * restricted.copies))
        fields = np.arange(in_type.multiplicity)[:, None] * in_type.rep.size
        self.register_buffer(
            "index", torch.from_numpy((fields + restricted.index).reshape(-1)), persistent=False
        )
        signs = torch.from_numpy(np.tile(restricted.signs, in_type.multiplicity)).to(
            torch.get_default_dtype()
        )
        self.register_buffer(
            "signs", None if (signs > 0).all() else signs.view(1, -1, 1, 1), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        y = x.index_select(1, self.index)
        return y if self.signs is None else y * self.signs
