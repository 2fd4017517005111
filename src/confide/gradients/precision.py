# SPDX-License-Identifier: Apache-2.0
# pyright: reportPrivateUsage=false
"""Mixed precision: a model may compute as briefly as its user likes; norms and sums are float32 at least.

A clipped sum moves by at most C when a unit joins only if the gradient that is summed is the one whose norm
was taken. Rounding one of them to eight or eleven bits, as autocast, TF32 and oneDNN's bfloat16 mode do with
matrix products and convolutions, lets a unit add a few thousandths more than C.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

_SHORT = (torch.float16, torch.bfloat16)
_CAST = (torch.float32, *_SHORT)
_FULL = ("ieee", "none")  # none: nobody asked for less
# Device -> torch's name of the library that computes there.
_BACKENDS = {"cpu": "mkldnn", "cuda": "cuda"}
_OPERATIONS = ("matmul", "conv")


def matched(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients in one dtype of at least 32 bits."""
    if x.dtype == grad.dtype and x.dtype not in _SHORT:
        return x, grad
    dtype = torch.promote_types(x.dtype, grad.dtype)
    dtype = torch.float32 if dtype in _SHORT else dtype
    return x.to(dtype), grad.to(dtype)


def as_kept(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients for products that are taken before a norm: bfloat16 stays.

    What rounding does to a unit's gradient *before* its norm is taken harms nobody: the very numbers that are
    measured are clipped and summed.
    """
    return (x, grad) if x.dtype == grad.dtype == torch.bfloat16 else matched(x, grad)


def lengthened(values: Tensor) -> Tensor:
    """Values of at least 32 bits."""
    return values.float() if values.dtype in _SHORT else values


def as_autocast_would(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors of an operation that autocast shortens, for operations that it does not know."""
    kind = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t.to(dtype) if t is not None and t.dtype in _CAST else t for t in tensors)


@contextmanager
def full_precision(device: torch.device) -> Generator[None]:
    """Within, products of float32 are products of float32, whatever the user allowed the model."""
    with without_autocast(device), _unshortened(device.type):
        yield


def without_autocast(device: torch.device) -> torch.autocast:
    """For backward passes: their operations keep the dtypes of the forward pass by themselves."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def _unshortened(kind: str) -> Generator[None]:
    backend = _BACKENDS.get(kind)
    if backend is None:
        yield
        return
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    before = {op: read(backend, op) for op in _OPERATIONS}
    short = [op for op, value in before.items() if value not in _FULL]
    if not short:
        yield
        return
    # The older switch for matrix products has to say the same, or torch refuses both.
    older = torch.get_float32_matmul_precision() if "matmul" in short else "highest"
    try:
        if older != "highest":
            torch.set_float32_matmul_precision("highest")
        for op in short:
            write(backend, op, "ieee")
        yield
    finally:
        if older != "highest":
            torch.set_float32_matmul_precision(older)
        for op in short:
            write(backend, op, "none")  # where the value came from the switch for all operations
            if read(backend, op) != before[op]:
                write(backend, op, before[op])
