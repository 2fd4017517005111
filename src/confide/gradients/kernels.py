# SPDX-License-Identifier: Apache-2.0
"""Exact formulas for per-unit weight gradients of convolutions.

A transposed convolution is a convolution with input and output gradient exchanged; every formula here does
that first. No kernel wins everywhere: they differ by factors of 2 to 70 with the shape, so
`confide.gradients.tuning` chooses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.gradients.units import Units
from confide.gradients.volumes import Halves, is_slow

_backward = torch.ops.aten.convolution_backward
_BLOCK = 16  # channels that the library's kernels for processors take at a time


@dataclass(frozen=True)
class ConvShape:
    """The constants of a convolution, a number for each spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]
    transposed: bool
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution."""
        if is_slow(x, weight, self):
            halves = Halves(x, weight, self)
            return halves.joined(self.level._forward(halves.inputs, weight, bias))
        return self._forward(x, weight, bias)

    def _forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        constants = (self.stride, self.padding, self.dilation, self.transposed, self.extra, self.groups)
        return torch.convolution(x, weight, bias, *constants)

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:
        """The library's own gradients of input and weight."""
        if is_slow(x, weight, self):
            halves = Halves(x, weight, self)
            need, found = self.level._backward(halves.split(grad), halves.inputs, weight, wanted)
            return halves.added(need) if wanted[0] else need, found
        return self._backward(grad, x, weight, wanted)

    def _backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:
        out = _backward(
            grad,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.extra,
            self.groups,
            (*wanted, False),
        )
        return out[0], out[1]

    @functools.cached_property
    def level(self) -> ConvShape:
        """Without padding along the first spatial dimension."""
        return replace(self, padding=(0, *self.padding[1:]))

    @functools.cache  # noqa: B019 - of a handful of small constants, for which a step asks again and again
    def grouped(self, count: int) -> ConvShape:
        """That of so many convolutions side by side."""
        return replace(self, groups=count * self.groups)

    def roles(self, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """(what the kernel slides over, what it is correlated with)."""
        return (grad, x) if self.transposed else (x, grad)


def padded(x: Tensor, padding: tuple[int, ...]) -> Tensor:
    """x (B, C, *S) with so many zeros at both ends of each spatial dimension."""
    return F.pad(x, [side for p in reversed(padding) for side in (p, p)]) if any(padding) else x


def _patches(x: Tensor, kernel: tuple[int, ...], out: tuple[int, ...], shape: ConvShape) -> Tensor:
    """im2col in any dimension as one strided copy: (B, C, *S) -> (B, C·k, T) for out positions T."""
    if x.dim() == 4 and x.shape[0] > 0:
        columns = F.unfold(x, kernel, shape.dilation, shape.padding, shape.stride)
        if columns.shape[2] == math.prod(out):
            return columns
    x = padded(x, shape.padding)
    strides = x.stride()
    view = x.as_strided(
        (*x.shape[:2], *kernel, *out),
        (
            *strides[:2],
            *(s * d for s, d in zip(strides[2:], shape.dilation, strict=True)),
            *(s * t for s, t in zip(strides[2:], shape.stride, strict=True)),
        ),
    )
    return view.reshape(len(x), x.shape[1] * math.prod(kernel), math.prod(out))


def by_loop(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """The library's own weight-gradient kernel once a unit: no copy of patches, no extra arithmetic.

    Each gradient is copied while it still lies in the cache; collected and stacked, all would be read from
    memory again.
    """
    out = x.new_empty(units.count, *weight.shape)
    sizes = units.sizes()
    rows = zip(out.unbind(), torch.split(x, sizes), torch.split(grad, sizes), strict=True)
    for place, own_x, own_grad in rows:
        place.copy_(shape.backward(own_grad, own_x, weight, (False, True))[1])
    return out


def by_fold(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """The library's own weight-gradient kernel of one grouped convolution, with the units as groups.

    (U·k, C) -> (k, U·C) for units of k rows each; no extra arithmetic, no copy of patches, one call.
    """
    count, rows = (units.count, units.rows_each) if units.rows_each else (len(x), 1)

    def folded(t: Tensor) -> Tensor:
        if rows > 1:
            t = t.reshape(count, rows, *t.shape[1:]).transpose(0, 1)
        return t.reshape(rows, -1, *t.shape[-len(shape.stride) :])

    # Never read; but the library would copy one that is not laid out in full.
    blank = weight.new_empty(count * weight.shape[0], *weight.shape[1:])
    values = shape.grouped(count).backward(folded(grad), folded(x), blank, (False, True))[1]
    values = values.view(count, *weight.shape)
    return values if units.rows_each else units.sum_rows(values)


def by_blocks(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """As `by_fold`, with channels filled up to whole blocks, as the library's grouped kernels take them.

    Steerable filters have any number of channels: 16 to 36 at 28×28 take twice as long as 16 to 48.
    """
    wide = weight.new_empty(_whole(len(weight)), _whole(weight.shape[1]), *weight.shape[2:])
    values = by_fold(_filled(x), _filled(grad), wide, shape, units)
    return values[:, : len(weight), : weight.shape[1]]


def _whole(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK


def _filled(x: Tensor) -> Tensor:
    """x (B, C, *S) with channels of zeros behind its own, up to a whole block."""
    more = _whole(x.shape[1]) - x.shape[1]
    return F.pad(x, [0] * (2 * x.dim() - 4) + [0, more]) if more else x


def by_unfold(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """Patches, then one batched matrix product."""
    x, grad = shape.roles(x, grad)
    rows, channels, groups = len(x), grad.shape[1], shape.groups
    columns = _patches(x, tuple(weight.shape[2:]), tuple(grad.shape[2:]), shape)
    columns = columns.view(rows * groups, -1, columns.shape[2])
    values = torch.bmm(grad.reshape(rows * groups, channels // groups, -1), columns.transpose(1, 2))
    return units.sum_rows(values.view(rows, *weight.shape))


def by_shift(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """Two dimensions, stride 1: pad to one row pitch, then a batched product for each kernel offset over
    views."""
    high, wide = weight.shape[2:]
    (top, left), (rows_out, columns_out) = shape.padding, grad.shape[2:]
    pitch = x.shape[3] + 2 * left
    flat = F.pad(x, (left, left, top, top + 1)).flatten(2)
    g = F.pad(grad, (0, pitch - columns_out)).flatten(2)
    length = rows_out * pitch
    out = x.new_empty(high * wide, len(x), grad.shape[1], x.shape[1])
    for i in range(high):
        for j in range(wide):
            start = i * pitch + j
            torch.bmm(g, flat[:, :, start : start + length].transpose(1, 2), out=out[i * wide + j])
    return units.sum_rows(out.permute(1, 2, 3, 0).reshape(len(x), *weight.shape))


def by_rows(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """As `by_shift`, with the offsets along a row side by side: fewer and wider products, one more copy."""
    high, wide = weight.shape[2:]
    (top, left), (rows_out, columns_out) = shape.padding, grad.shape[2:]
    count, channels, pitch = len(x), x.shape[1], x.shape[3] + 2 * left
    flat = F.pad(x, (left, left, top, top + 1)).flatten(2).contiguous()  # from channels last, too
    size, length = flat.shape[2], rows_out * pitch
    total = length + (high - 1) * pitch
    spread = flat.as_strided((count, wide, channels, total), (channels * size, 1, size, 1))
    spread = spread.reshape(count, wide * channels, total)
    g = F.pad(grad, (0, pitch - columns_out)).flatten(2)
    out = x.new_empty(high, count, grad.shape[1], wide * channels)
    for i in range(high):
        start = i * pitch
        torch.bmm(g, spread[:, :, start : start + length].transpose(1, 2), out=out[i])
    values = out.view(high, count, -1, wide, channels).permute(1, 2, 4, 0, 3)
    return units.sum_rows(values.reshape(count, *weight.shape))


def by_group(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> Tensor:
    """One grouped convolution with the batch as groups: exchanges the roles of stride and dilation."""
    x, grad = shape.roles(x, grad)
    rows, channels, dims = len(x), grad.shape[1], x.dim() - 2
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    moved = x.transpose(0, 1).reshape(x.shape[1], rows, *x.shape[2:])
    filters = grad.reshape(rows * channels, 1, *grad.shape[2:])
    found = convolve(
        moved, filters, padding=shape.padding, dilation=shape.stride, stride=shape.dilation, groups=rows
    ).view(x.shape[1], rows, channels, *_spatial(moved, filters, shape))
    for axis, size in enumerate(weight.shape[2:]):
        found = found.narrow(3 + axis, 0, size)
    return units.sum_rows(found.permute(1, 2, 0, *range(3, 3 + dims)).reshape(rows, *weight.shape))


def _spatial(x: Tensor, filters: Tensor, shape: ConvShape) -> tuple[int, ...]:
    """Output size of the grouped convolution."""
    sizes = zip(x.shape[2:], filters.shape[2:], shape.padding, shape.stride, shape.dilation, strict=True)
    return tuple((n + 2 * p - s * (k - 1) - 1) // d + 1 for n, k, p, s, d in sizes)


Kernel = Callable[[Tensor, Tensor, Tensor, ConvShape, Units], Tensor]
KERNELS: dict[str, Kernel] = {
    "loop": by_loop,
    "fold": by_fold,
    "blocks": by_blocks,
    "unfold": by_unfold,
    "shift": by_shift,
    "rows": by_rows,
    "group": by_group,
}


def weight_gradient(
    name: str, x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units
) -> Tensor:
    """Each unit's weight gradient (U, *weight shape), perhaps as a view of something larger.

    x: (B, C, *S) inputs; grad: (B, O, *T) output gradients.
    """
    return KERNELS[name](x, grad, weight.detach(), shape, units)


def fits(name: str, x: Tensor, weight: Tensor, shape: ConvShape) -> bool:
    """Whether a kernel covers this convolution."""
    match name:
        case "shift" | "rows":
            ones = set(shape.stride + shape.dilation) == {1}
            return ones and x.dim() == 4 and not shape.transposed and shape.groups == 1
        case "group" | "ghost":
            return shape.groups == 1
        case "blocks":
            whole = all(channels % _BLOCK == 0 for channels in weight.shape[:2])
            return x.device.type == "cpu" and shape.groups == 1 and not whole
        case _:
            return True
