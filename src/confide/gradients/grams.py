# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Norms of per-sample weight gradients of convolutions from Gram matrices; the ordinary summed gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from confide.gradients.kernels import ConvShape, padded

_CACHED = 1 << 20  # bytes of Gram matrices at a time, on a CPU: what its second cache holds


def conv_norms(x: Tensor, grad: Tensor, shape: ConvShape, kernel: tuple[int, ...]) -> Tensor:
    """Squared norm of each sample's weight gradient, from Gram matrices of pixels.

    ‖Σ_t g_t ⊗ patch_t‖² = Σ_{t,t'} ⟨g_t, g_t'⟩·⟨patch_t, patch_t'⟩, and the second factor is a box sum of
    the Gram matrix of *pixels* over equal offsets, which is separable over the dimensions: k² fewer
    products than from patches.
    x: (B, C, *S); grad: (B, O, *T); returns (B,) float64.
    """
    x, grad = shape.roles(x, grad)
    wide = padded(x, shape.padding)
    few = max(1, _CACHED // (wide.element_size() * wide.shape[2:].numel() ** 2))
    if x.device.type != "cpu" or few >= len(x):
        return _norms(wide, grad, shape, kernel)
    parts = zip(wide.split(few), grad.split(few), strict=True)
    return torch.cat([_norms(a, b, shape, kernel) for a, b in parts])


def _norms(wide: Tensor, grad: Tensor, shape: ConvShape, kernel: tuple[int, ...]) -> Tensor:
    """Of padded inputs."""
    space, out = wide.shape[2:], grad.shape[2:]
    flat, g = wide.flatten(2), grad.flatten(2)
    gram = torch.bmm(flat.transpose(1, 2), flat).view(len(wide), *space, *space)
    dims = len(space)
    for axis in range(dims):
        step, gap, size = shape.stride[axis], shape.dilation[axis], kernel[axis]
        total = None
        for offset in range(size):
            pick = slice(offset * gap, offset * gap + (out[axis] - 1) * step + 1, step)
            part = gram[(slice(None),) * (1 + axis) + (pick,) + (slice(None),) * (dims - 1) + (pick,)]
            total = part.clone() if total is None else total.add_(part)
        assert total is not None
        gram = total
    outer = torch.bmm(g.transpose(1, 2), g)
    positions = outer.shape[1]
    # Rows in the tensors' own dtype, then float64: a float64 copy of both Gram matrices would cost more
    # than they did.
    return outer.mul_(gram.reshape(len(wide), positions, positions)).sum(2).double().sum(1)


def conv_total(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    """Σ over samples of the weight gradient: the library's ordinary kernel."""
    return shape.backward(grad, x, weight.detach(), (False, True))[1]
