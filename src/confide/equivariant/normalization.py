# SPDX-License-Identifier: Apache-2.0
"""Normalisation that keeps equivariance, for every representation, with the statistics of one sample only."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.equivariant.fields import FieldType, SteerableModule
from confide.equivariant.kernels import invariants
from confide.errors import ConfigError


class FieldGroupNorm(SteerableModule):
    """Group normalisation of fields: subtract the invariant mean, divide by the RMS of what is left.

    A group is a number of whole fields. A mean that turns with the image is no bias but a feature, so only
    its part in the invariant subspace of the representation is subtracted; the scale is one number for a
    sample and group. For regular fields this is GroupNorm with one scale and shift for a field. Wu & He
    (2018), arXiv:1803.08494. (B, C, H, W) → (B, C, H, W).

    The variance is E[x²] − E[x]², whose relative error grows with mean²/variance; after an activation that
    ratio is of order 1.

    Args:
        in_type: Type of the fields, unchanged by the layer.
        groups: How many groups the fields are put in.
        affine: Learn a scale for each field and a shift for each invariant of it.
        eps: Added to the variance.

    Raises:
        ConfigError: If the fields cannot be put in that many equal groups.
    """

    inv: Tensor

    def __init__(self, in_type: FieldType, groups: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__(in_type, in_type)
        if not isinstance(groups, int) or groups < 1 or in_type.multiplicity % groups:
            raise ConfigError(
                f"{in_type.multiplicity} fields cannot be put in {groups!r} equal groups",
                remedy=f"Give a divisor of {in_type.multiplicity}.",
            )
        self.groups, self.eps = groups, eps
        exact = invariants(in_type.rep)
        # Where the group permutes all channels of a field, this is the ordinary, fused GroupNorm.
        self.ordinary = np.allclose(exact.T @ exact, 1 / in_type.rep.size)
        self.register_buffer(
            "inv", torch.from_numpy(exact.copy()).to(torch.get_default_dtype()), persistent=False
        )
        self.weight = nn.Parameter(torch.ones(in_type.multiplicity)) if affine else None
        self.bias = (
            nn.Parameter(torch.zeros(in_type.multiplicity, len(exact))) if affine and len(exact) else None
        )

    def channel_affine(self) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift of each channel, (C,) each."""
        scale = None if self.weight is None else self.weight.repeat_interleave(self.in_type.rep.size)
        if self.bias is None:
            return scale, None
        # A sum of products, where a matrix product would be shortened by autocast and no longer fit `scale`.
        return scale, (self.bias.unsqueeze(2) * self.inv).sum(1).reshape(-1)

    def normalize(self, x: Tensor) -> Tensor:
        """The fields before scale and shift."""
        if self.ordinary:
            return F.group_norm(x, self.groups, eps=self.eps)
        scale, shift = self._statistics(x)
        return torch.addcmul(shift, x, scale)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        weight, bias = self.channel_affine()
        if self.ordinary:
            return F.group_norm(x, self.groups, weight, bias, self.eps)
        scale, shift = self._statistics(x)
        if weight is not None:
            scale, shift = scale * weight.view(1, -1, 1, 1), shift * weight.view(1, -1, 1, 1)
        if bias is not None:
            shift = shift + bias.view(1, -1, 1, 1)
        return torch.addcmul(shift, x, scale)

    def export(self) -> nn.Module:
        """An ordinary GroupNorm where the representation permutes all channels; else itself."""
        if not self.ordinary:
            return self
        weight, bias = self.channel_affine()
        norm = nn.GroupNorm(
            self.groups, self.in_type.size, self.eps, affine=weight is not None, device=self.inv.device
        )
        if weight is not None:
            norm.weight = nn.Parameter(weight.detach().clone())
            norm.bias = nn.Parameter(torch.zeros_like(weight) if bias is None else bias.detach().clone())
        return norm

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel that normalise each sample, (B, C, 1, 1) each."""
        b, d, pixels = x.shape[0], self.in_type.rep.size, x.shape[2] * x.shape[3]
        fields = self.in_type.multiplicity // self.groups
        square = (
            torch.linalg.vector_norm(x.flatten(2), dim=2).square().reshape(b, self.groups, -1).mean(2)
            / pixels
        )
        mean = x.mean((2, 3)).reshape(b, self.groups, fields, d).mean(2) @ (
            self.inv.T @ self.inv
        )  # (B, G, d)
        variance = (square - mean.square().mean(2)).clamp_min(0)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale.unsqueeze(2)
        full = (b, self.groups, fields, d)
        return (
            scale[:, :, None, None].expand(full).reshape(b, -1, 1, 1),
            shift[:, :, None, :].expand(full).reshape(b, -1, 1, 1),
        )


class ScaleNorm(FieldGroupNorm):
    """Normalisation of a residual sum, without scale and shift. Klause et al. (2022), arXiv:2203.00324."""

    def __init__(self, in_type: FieldType, groups: int, *, eps: float = 1e-5) -> None:
        super().__init__(in_type, groups, affine=False, eps=eps)
