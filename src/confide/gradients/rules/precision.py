# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: norms and sums are computed in float32 at least, whatever autocast chose for the layer."""

from __future__ import annotations

import torch
from torch import Tensor

_SHORT = (torch.float16, torch.bfloat16)


def matched(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients in one dtype of at least 32 bits."""
    if x.dtype == grad.dtype and x.dtype not in _SHORT:
        return x, grad
    dtype = torch.promote_types(x.dtype, grad.dtype)
    dtype = torch.float32 if dtype in _SHORT else dtype
    return x.to(dtype), grad.to(dtype)
