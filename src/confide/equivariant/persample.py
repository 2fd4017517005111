# SPDX-License-Identifier: Apache-2.0
"""Per-unit gradients of steerable layers, registered with the gradient engine.

A convolution's coefficients get their gradients in one of two exact ways, whichever is faster for the shape:
through the gradient of the expanded filter, or through the group's irreducible representations
(`confide.equivariant.spectrum`), which never forms an expanded filter's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from confide.equivariant.kernels import kernel_basis
from confide.equivariant.layers import KernelKey, SteerableConv2d
from confide.equivariant.spectrum import Spectrum, spectrum
from confide.gradients.captures import Instantiated, Rotated
from confide.gradients.choices import fastest, remembered
from confide.gradients.kernels import ConvShape, weight_gradient
from confide.gradients.precision import as_autocast_would, as_kept, lengthened
from confide.gradients.recorder import Recorder, unseen
from confide.gradients.rules import forward_rule
from confide.gradients.tuning import choose_kernel
from confide.gradients.units import Units, squared_norms

WAYS = ("expanded", "spectral")
_SMALL = 100_000  # multiply-adds below which timing costs more than the worst choice
_CACHED = 2 << 20  # bytes of filtered fields at a time, on a CPU: what its second cache holds


@dataclass(frozen=True, eq=False)
class SpectralTensors:
    """A spectrum in a dtype, on a device; passages one behind the other.

    Attributes:
        entering: Φ, (Σ s·c, d_in, k, k).
        leaving: E, (Σ r·c, d_out).
        sizes: (r, c, s) of each passage.
        to_basis: (K, K).
    """

    entering: Tensor
    leaving: Tensor
    sizes: tuple[tuple[int, int, int], ...]
    to_basis: Tensor


@lru_cache(maxsize=256)
def _tensors(exact: Spectrum, dtype: torch.dtype, device: torch.device) -> SpectralTensors:
    def load(array: Any) -> Tensor:
        return torch.from_numpy(array.copy()).to(device, dtype)

    entering = [p.entering.reshape(-1, *p.entering.shape[2:]) for p in exact.passages]
    leaving = [p.leaving.transpose(0, 2, 1).reshape(-1, p.leaving.shape[1]) for p in exact.passages]
    return SpectralTensors(
        load(np.concatenate(entering)),
        load(np.concatenate(leaving)),
        tuple((len(p.leaving), p.leaving.shape[2], len(p.entering)) for p in exact.passages),
        load(exact.to_basis),
    )


@lru_cache(maxsize=256)
def _dense_basis(key: KernelKey, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(K, d_out·d_in·k·k)."""
    kernels = kernel_basis(*key).kernels
    return torch.from_numpy(kernels.reshape(len(kernels), -1).copy()).to(device, dtype)


def conv_shape(layer: SteerableConv2d) -> ConvShape:
    """The constants of the ordinary convolution that the layer is."""
    stride, padding, dilation = ((n, n) for n in (layer.stride, layer.padding, layer.dilation))
    return ConvShape(stride, padding, dilation, (0, 0), False, 1)


def by_spectrum(layer: SteerableConv2d, x: Tensor, grad: Tensor) -> Tensor:
    """Each sample's coefficient gradient in the orthonormal coordinates of the spectrum: (B, n).

    x: (B, C_in, H, W) inputs; grad: (B, C_out, H', W') output gradients. The numbers of a passage stand
    together, as (fields out, r, fields in, s). The layer must have a spectrum.
    """
    tables = _spectral_tensors(layer, x)
    out = x.new_empty(len(x), layer.weight.numel())
    most = len(x)
    if x.device.type == "cpu":
        row = layer.in_type.multiplicity * len(tables.entering) * grad[0, 0].numel() * x.element_size()
        most = max(1, _CACHED // row)
    for part in _equal_parts(len(x), most):
        _products(layer, tables, x[part], grad[part], out[part])
    return out


def _equal_parts(rows: int, most: int) -> list[slice]:
    """Parts of one length, at most `most`; the last may begin before the one before it ends.

    For another number of rows a library may take another algorithm, and then a row's numbers would depend on
    where it stands in a batch.
    """
    count = -(-rows // most)
    size = -(-rows // count)
    starts = [min(number * size, rows - size) for number in range(count)]
    return [slice(start, start + size) for start in starts]


def _products(layer: SteerableConv2d, tables: SpectralTensors, x: Tensor, grad: Tensor, out: Tensor) -> None:
    """`by_spectrum` of some rows, written to `out`: products over the pixels of x through Φ and grad through
    E."""
    rows, m_in, m_out = len(x), layer.in_type.multiplicity, layer.out_type.multiplicity
    fields = x.reshape(rows * m_in, -1, *x.shape[2:])
    filtered = F.conv2d(fields, tables.entering, None, layer.stride, layer.padding, layer.dilation)
    mixed = torch.matmul(tables.leaving, grad.reshape(rows * m_out, layer.out_type.rep.size, -1))
    entered = filtered.split([s * c for _, c, s in tables.sizes], 1)
    left = mixed.split([r * c for r, c, _ in tables.sizes], 1)
    places = out.split([m_out * r * m_in * s for r, _, s in tables.sizes], 1)
    for a, b, place, (r, _, s) in zip(left, entered, places, tables.sizes, strict=True):
        torch.bmm(
            a.reshape(rows, m_out * r, -1),
            b.reshape(rows, m_in * s, -1).transpose(1, 2),
            out=place.view(rows, m_out * r, m_in * s),
        )


def _spectral_tensors(layer: SteerableConv2d, like: Tensor) -> SpectralTensors:
    exact = spectrum(*layer.kernel_key)
    assert exact is not None
    return _tensors(exact, like.dtype, like.device)


def from_spectrum(layer: SteerableConv2d, values: Tensor) -> Tensor:
    """Gradients as `by_spectrum` gives them, (U, n), as those of the coefficients: (U, fields out, fields in,
    K)."""
    values = lengthened(values)  # a rotation of eight bits would change lengths
    tables = _spectral_tensors(layer, values)
    m_in, m_out = layer.in_type.multiplicity, layer.out_type.multiplicity
    parts = values.split([m_out * r * m_in * s for r, _, s in tables.sizes], 1)
    found = [
        part.reshape(-1, m_out, r, m_in, s).transpose(2, 3).reshape(-1, r * s)
        for part, (r, _, s) in zip(parts, tables.sizes, strict=True)
    ]
    return (torch.cat(found, 1) @ tables.to_basis).view(len(values), m_out, m_in, -1)


def by_expansion(
    layer: SteerableConv2d, x: Tensor, grad: Tensor, filters: Tensor, units: Units, kernel: str
) -> Tensor:
    """Each unit's coefficient gradient (U, fields out, fields in, K), through the expanded filter's.

    The gradient of a coefficient is the inner product of its basis kernel and the filter's gradient.
    """
    wide = weight_gradient(kernel, x, grad, filters, conv_shape(layer), units)
    m_out, m_in, functions = layer.weight.shape
    pairs = wide.reshape(len(wide), m_out, layer.out_type.rep.size, m_in, -1).transpose(2, 3)
    basis = _dense_basis(layer.kernel_key, wide.dtype, wide.device)
    return (pairs.reshape(-1, basis.shape[1]) @ basis.t()).view(len(wide), m_out, m_in, functions)


def coefficient_gradients(
    layer: SteerableConv2d, x: Tensor, grad: Tensor, filters: Tensor, units: Units, mode: str
) -> Instantiated:
    """Each unit's coefficient gradient (U, fields out, fields in, K), the faster way."""
    way = choose_way(layer, x, grad, filters, mode)
    if way == "spectral":
        return Rotated(units.sum_rows(by_spectrum(layer, x, grad)), partial(from_spectrum, layer))
    kernel = choose_kernel(x, grad, filters, conv_shape(layer), ghost_allowed=False, mode=_kernel(mode))
    return Instantiated(by_expansion(layer, x, grad, filters, units, kernel))


def choose_way(layer: SteerableConv2d, x: Tensor, grad: Tensor, filters: Tensor, mode: str) -> str:
    """One of `WAYS`: as `confide.gradients.tuning.kernels` asks, by a cost model, or timed once a shape."""
    if spectrum(*layer.kernel_key) is None:
        return "expanded"
    if mode in WAYS:
        return mode
    work = len(x) * grad[0, 0].numel() * filters.numel()
    if mode != "tune" or work < _SMALL:
        return _guess(layer, grad)
    rows = 1 << (len(x).bit_length() - 1)  # batch sizes within a power of two share one choice
    key = repr((
        "steerable convolution",
        str(layer.in_type),
        str(layer.out_type),
        (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.frequency_cutoff),
        (rows, *x.shape[1:]),
        str(x.dtype),
        x.device.type,
        torch.get_num_threads(),
    ))  # fmt: skip
    return remembered(key, WAYS, lambda: _fastest(layer, x[:rows], grad[:rows], filters))


def _guess(layer: SteerableConv2d, grad: Tensor) -> str:
    """Through the spectrum where the work of the filters Φ, which all output fields share, is small."""
    exact = spectrum(*layer.kernel_key)
    assert exact is not None
    channels = sum(p.entering.shape[0] * p.entering.shape[1] for p in exact.passages)
    pixels = grad[0, 0].numel()
    return "spectral" if 3 * channels < layer.out_type.size or pixels <= 64 else "expanded"


def _fastest(layer: SteerableConv2d, x: Tensor, grad: Tensor, filters: Tensor) -> str:
    """Time every way on random numbers of the same shapes."""
    source = torch.Generator(x.device).manual_seed(1)  # its own: timing must not move the training's numbers
    x, grad = (torch.empty_like(t).normal_(generator=source) for t in (x, grad))
    units = Units.of(None, len(x), x.device)
    # Chosen beforehand, lest the choice of a kernel be taken for the work of the first way.
    choose_kernel(x, grad, filters, conv_shape(layer), ghost_allowed=False)

    def work(way: str) -> Tensor:
        return squared_norms(coefficient_gradients(layer, x, grad, filters, units, way).values)

    return fastest({way: partial(work, way) for way in WAYS}, x.device)


def _kernel(mode: str) -> str | None:
    return None if mode in WAYS else mode


class SteerableConvolution(torch.autograd.Function):
    """The layer, with a backward pass that forms the input gradient and records the coefficients'."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, anchor: Tensor, x: Tensor, layer: SteerableConv2d) -> Tensor:
        filters, bias = layer.expand()
        ctx.recorder, ctx.layer = recorder, layer
        x, filters, bias = as_autocast_would(x, filters, bias)
        ctx.save_for_backward(x, filters)
        return F.conv2d(x, filters, bias, layer.stride, layer.padding, layer.dilation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, filters = ctx.saved_tensors  # outside: a checkpoint runs forward again here, which must be seen
        with unseen():
            x, grad = as_kept(x.detach(), grads[0])
            filters = filters.to(x.dtype)
            need = None
            if ctx.needs_input_grad[2]:
                need = conv_shape(ctx.layer).backward(grad, x, filters, (True, False))[0]
            _record(ctx.recorder, ctx.layer, x, grad, filters)
        return None, None, need, None


def _record(recorder: Recorder, layer: SteerableConv2d, x: Tensor, grad: Tensor, filters: Tensor) -> None:
    units = recorder.units
    if len(x) != recorder.batch:  # windows of one sample stand behind each other
        units = units.repeated(len(x) // recorder.batch)
    if layer.bias is not None and recorder.wants(layer.bias):
        channels = units.sum_rows(lengthened(grad.flatten(2)).sum(2))
        fields = channels.view(len(channels), *layer.bias.shape[:1], -1)
        recorder.record(layer.bias, Instantiated(fields @ layer.bias_basis.to(fields).t()))
    if recorder.wants(layer.weight):
        recorder.record(layer.weight, coefficient_gradients(layer, x, grad, filters, units, recorder.kernels))


@forward_rule(SteerableConv2d)
def steerable_conv2d(recorder: Recorder, layer: SteerableConv2d, *inputs: Any, **kwargs: Any) -> Any:
    """Run the layer so that its backward pass records; without plain rows its own operations are seen."""
    x = inputs[0] if len(inputs) == 1 and not kwargs else None
    if not isinstance(x, Tensor) or not recorder.is_rows(x) or recorder.axis(x):
        return NotImplemented
    with unseen():
        layer.check(x)
        recorder.rows_of(x, "a steerable convolution")
        out = SteerableConvolution.apply(recorder, recorder.anchor, x, layer)
    recorder.mark_rows(out)
    return out
