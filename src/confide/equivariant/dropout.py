# SPDX-License-Identifier: Apache-2.0
"""Dropout that keeps equivariance."""

from __future__ import annotations

import torch
from torch import Tensor

from confide.equivariant.fields import FieldType, SteerableModule
from confide.errors import ConfigError


class FieldDropout(SteerableModule):
    """Drop whole fields of single samples, everywhere in the image; the others are scaled by 1/(1−p).

    Args:
        in_type: Type of the fields, unchanged by the layer.
        p: Chance that a field is dropped, 0 ≤ p < 1.

    Raises:
        ConfigError: If p is no such chance.
    """

    def __init__(self, in_type: FieldType, p: float = 0.1) -> None:
        super().__init__(in_type, in_type)
        if not 0 <= p < 1:
            raise ConfigError(f"a field cannot be dropped with probability {p!r}", remedy="Give 0 ≤ p < 1.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape[0], self.in_type.multiplicity, device=x.device) >= self.p
        scale = kept.to(x.dtype) / (1 - self.p)
        return x * scale.repeat_interleave(self.in_type.rep.size, 1)[:, :, None, None]
