# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Which kernel for which convolution: timed once for each shape on this machine, on numbers that are no data.

The choice depends on shapes, dtype, device and thread count only, never on values, and is kept in the user's
cache folder. `CONFIDE_KERNELS=model` skips the timing and takes a cost model's guess, the same on every
machine.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from confide.gradients.choices import fastest, remembered
from confide.gradients.grams import conv_norms, conv_total
from confide.gradients.kernels import KERNELS, ConvShape, fits, weight_gradient
from confide.gradients.memory import give_back_memory
from confide.gradients.precision import full_precision, is_short, lengthened, matched
from confide.gradients.units import Units, squared_norms

_log = logging.getLogger("confide.gradients")
_GRAM_BYTES = 256_000_000
_HEAVY, _LIGHTER = (
    2.0,
    0.75,
)  # with twice the memory of a ghost norm a kernel has to save a quarter of the time
_SMALL = 100_000  # multiply-adds below which timing costs more than the worst choice
_TIMED = 5_000_000_000  # multiply-adds above which fewer rows are timed: all take the same time
_PATCHES = 8_000_000  # bytes of one row's patches from which copying them was never worth it on a processor
_FORMED = 32_000_000  # bytes of gradients above which fewer rows are timed: no trial is to decide the peak
_mode: ContextVar[str | None] = ContextVar("confide_kernels", default=None)
_NAMES = frozenset((*KERNELS, "ghost"))


@contextmanager
def kernels(mode: str) -> Generator[None]:
    """Within, engines choose kernels by this mode: "tune", "model", or one kernel by name."""
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def kernel_mode() -> str:
    """The mode in force: of `kernels`, else of CONFIDE_KERNELS, else "tune"."""
    return _mode.get() or os.environ.get("CONFIDE_KERNELS", "tune")


def choose_kernel(
    x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, *, ghost_allowed: bool, mode: str | None = None
) -> str:
    """Name of the kernel: one of `KERNELS`, or "ghost"."""
    mode = mode or kernel_mode()
    if mode in KERNELS or mode == "ghost":
        return mode if fits(mode, x, weight, shape) and (mode != "ghost" or ghost_allowed) else "loop"
    each = shape.roles(x, grad)[1].shape[2:].numel() * weight.numel()
    if mode == "model" or x.shape[0] * each < _SMALL:
        return _guess(x, grad, weight, shape, ghost_allowed)
    # Poisson sampling gives every batch another size: sizes within a power of two share one choice.
    rows = 1 << (x.shape[0].bit_length() - 1)
    key = _key(
        (rows, *x.shape[1:]),
        (rows, *grad.shape[1:]),
        tuple(weight.shape),
        shape,
        x.dtype,
        x.device.type,
        torch.get_num_threads(),
        ghost_allowed,
        (x.is_contiguous(), grad.is_contiguous()),
    )
    most = min(_TIMED // each, _FORMED // (4 * weight.numel()))
    few = min(rows, max(2, most)) if x.device.type == "cpu" else rows
    return remembered(key, _NAMES, lambda: _fastest(x[:few], grad[:few], weight, shape, ghost_allowed))


@functools.cache
def _key(*parts: Any) -> str:
    """What the cache file calls a choice; written once, for every step asks for it."""
    return repr(tuple(str(part) if isinstance(part, torch.dtype) else part for part in parts))


def _candidates(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, ghost_allowed: bool) -> list[str]:
    """Kernels worth timing."""
    names = [name for name in KERNELS if fits(name, x, weight, shape)]
    if "group" in names and x.dim() == 4 and not shape.transposed and weight.shape[0] > 32:
        names.remove("group")  # up to 70 times slower with many channels
    a, g = shape.roles(x, grad)
    space = math.prod(a.shape[2:])
    out = math.prod(g.shape[2:])
    grams = out * out * g.shape[1] + space * space * a.shape[1]
    if x.device.type == "cpu" and 4 * out * weight[0].numel() > _PATCHES:
        names.remove("unfold")
    small = len(x) * space * space * max(4, x.element_size()) <= _GRAM_BYTES
    if ghost_allowed and shape.groups == 1 and small and grams < 2 * out * weight.numel():
        names.append("ghost")
    return names


def _guess(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, ghost_allowed: bool) -> str:
    """A cost model instead of a clock: ghost for few pixels and many channels, else by the amount of work."""
    names = _candidates(x, grad, weight, shape, ghost_allowed)
    if "ghost" in names:
        return "ghost"
    if x.dim() == 5 and "group" in names:
        return "group"
    work = math.prod(shape.roles(x, grad)[1].shape[2:]) * weight.numel()
    return "unfold" if weight[0].numel() <= 32 or work < 2e6 else "loop"


def _fastest(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, ghost_allowed: bool) -> str:
    """Time every candidate twice on random numbers of the same shapes, and keep the best time."""
    names = _candidates(x, grad, weight, shape, ghost_allowed)
    if len(names) == 1:
        return names[0]
    # A generator of its own: timing must not move the random numbers of the training.
    source = torch.Generator(x.device).manual_seed(1)
    like_x, like_grad = (
        torch.empty_like(x).normal_(generator=source),
        torch.empty_like(grad).normal_(generator=source),
    )
    like_weight = torch.zeros_like(weight, dtype=x.dtype)
    units = Units.of(None, len(x), x.device)
    works = {
        name: partial(_work, name, like_x, like_grad, like_weight, shape, units)
        for name in _agreeing(names, like_x, like_grad, like_weight, shape, units)
    }
    # A ghost norm holds on to inputs and output gradients, the others to the gradients of all units.
    held = (x.numel() + grad.numel()) * max(4, x.element_size())
    heavy = "ghost" in works and len(x) * weight.numel() * x.element_size() > _HEAVY * held
    try:
        return fastest(works, x.device, {"ghost": _LIGHTER} if heavy else {})
    finally:
        give_back_memory()  # of kernels that were tried and are not used


def _agreeing(
    names: list[str], x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units
) -> list[str]:
    """The kernels that give the norms of the library's own, one row at a time, in this very layout of memory.

    All of them should; a wrong norm is a wrong privacy claim, so it is not left at that.
    """
    exact = matched(x, grad)
    with full_precision(x.device):
        like = weight.to(exact[0].dtype)
        expected = squared_norms(weight_gradient("loop", *exact, like, shape, units))
    near = 1e-2 if is_short(x) else 1e-3
    agreeing: list[str] = []
    for name in names:
        got = (
            conv_norms(*matched(x, grad), shape, tuple(weight.shape[2:]))
            if name == "ghost"
            else squared_norms(weight_gradient(name, x, grad, weight, shape, units))
        )
        if torch.allclose(got, expected, rtol=near):
            agreeing.append(name)
        else:
            # Not how many rows there are: that is the size of a batch.
            _log.warning("kernel %s is wrong for %s on inputs %s; not used", name, shape, tuple(x.shape[1:]))
    return agreeing


def _work(name: str, x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape, units: Units) -> None:
    """All that the choice costs: gradients or norms, and the weighted sum."""
    if name == "ghost":
        x, grad = matched(x, grad)
        conv_norms(x, grad, shape, tuple(weight.shape[2:]))
        conv_total(x, grad * 1.0, weight, shape)
        return
    values = lengthened(weight_gradient(name, x, grad, weight, shape, units).contiguous())
    squared_norms(values)
    torch.mv(values.flatten(1).t(), torch.ones(len(values), dtype=values.dtype, device=values.device))
