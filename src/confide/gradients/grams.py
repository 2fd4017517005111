# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Norms of per-sample weight gradients of convolutions from Gram matrices; the ordinary summed gradient."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from confide.gradients.kernels import ConvShape

_CACHED = 1 << 20  # bytes of Gram matrices at a time, on a CPU: what its second cache holds
# Units in the last place of the diagonal that rounding can take from a sum of products: 20 were the most that
# was seen, of inputs that are alike and output gradients that cancel.
_LOST = 64


def summed(products: Tensor, dtype: torch.dtype) -> Tensor:
    """An upper bound of the sums of products of two Gram matrices (B, T, T), at most 4e-6 above most of them.

    Where inputs have a large common part, large products cancel, and what rounding leaves can be far below
    the norm: such a unit would add many times the clip norm. `dtype` is that of the Gram matrices; (B,)
    float64.
    """
    lost = _LOST * torch.finfo(dtype).eps * products.diagonal(dim1=1, dim2=2).double().sum(1)
    # Rows in the tensors' own dtype, then float64: a float64 copy of both Gram matrices would cost more
    # than they did.
    return products.sum(2).double().sum(1) + lost


def conv_norms(x: Tensor, grad: Tensor, shape: ConvShape, kernel: tuple[int, ...]) -> Tensor:
    """Squared norm of each sample's weight gradient, from Gram matrices of pixels; rounded up, see `summed`.

    ‖Σ_t g_t ⊗ patch_t‖² = Σ_{t,t'} ⟨g_t, g_t'⟩·⟨patch_t, patch_t'⟩, and the second factor is a box sum of
    the Gram matrix of *pixels* over equal offsets, which is separable over the dimensions: k² fewer
    products than from patches.
    x: (B, C, *S); grad: (B, O, *T); returns (B,) float64.
    """
    x, grad = shape.roles(x, grad)
    few = max(1, _CACHED // (x.element_size() * x.shape[2:].numel() ** 2))
    if x.device.type != "cpu" or few >= len(x):
        return _norms(x, grad, shape, kernel)
    parts = zip(x.split(few), grad.split(few), strict=True)
    return torch.cat([_norms(a, b, shape, kernel) for a, b in parts])


def _norms(x: Tensor, grad: Tensor, shape: ConvShape, kernel: tuple[int, ...]) -> Tensor:
    space, out = x.shape[2:], grad.shape[2:]
    flat, g = x.flatten(2), grad.flatten(2)
    gram = torch.bmm(flat.transpose(1, 2), flat).view(len(x), *space, *space)
    for axis in range(len(space)):
        moves = _moves(
            space[axis],
            out[axis],
            kernel[axis],
            shape.stride[axis],
            shape.padding[axis],
            shape.dilation[axis],
        )
        gram = _box_sums(gram, axis, out[axis], moves)
    outer = torch.bmm(g.transpose(1, 2), g)
    positions = outer.shape[1]
    return summed(outer.mul_(gram.reshape(len(x), positions, positions)), x.dtype)


def _box_sums(gram: Tensor, axis: int, out: int, moves: tuple[tuple[slice, slice], ...]) -> Tensor:
    """Sums over equal offsets along one axis of both pixels: (B, *S, *S), of which that axis gets length
    `out`."""
    dims = gram.dim() // 2
    first, second = 1 + axis, 1 + dims + axis

    def cut(values: Tensor, part: slice) -> Tensor:
        return values[(slice(None),) * first + (part,) + (slice(None),) * (dims - 1) + (part,)]

    size = list(gram.shape)
    size[first] = size[second] = out
    if moves and moves[0][0] == slice(0, out):
        total = cut(gram, moves[0][1]).clone(memory_format=torch.contiguous_format)
        moves = moves[1:]
    else:
        total = gram.new_zeros(size)
    for target, source in moves:
        cut(total, target).add_(cut(gram, source))
    return total


@functools.cache
def _moves(
    size: int, out: int, kernel: int, step: int, padding: int, gap: int
) -> tuple[tuple[slice, slice], ...]:
    """For each kernel offset: which outputs meet a pixel there, and which pixels; most outputs first.

    The others meet padding, whose products are zero and left out.
    """
    found: list[tuple[slice, slice]] = []
    for offset in range(kernel):
        shift = offset * gap - padding
        low, high = max(0, -(shift // step)), min(out - 1, (size - 1 - shift) // step)
        if low <= high:
            start = low * step + shift
            found.append((slice(low, high + 1), slice(start, start + (high - low) * step + 1, step)))
    return tuple(sorted(found, key=lambda move: move[0].start - move[0].stop))


def conv_total(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    """Σ over samples of the weight gradient: the library's ordinary kernel."""
    return shape.backward(grad, x, weight.detach(), (False, True))[1]
