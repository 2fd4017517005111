# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: a model may compute as briefly as its user likes; norms and sums are float32 at least.

A clipped sum moves by at most C when a unit joins only if the gradient that is summed is the one whose norm
was taken. Rounding one of them to eight or eleven bits, as autocast, TF32 and oneDNN's bfloat16 mode do with
matrix products and convolutions, lets a unit add a few thousandths more than C.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_SHORT = (torch.float16, torch.bfloat16)
_CAST = (torch.float32, *_SHORT)
_FULL = ("ieee", "none")  # none: nobody asked for less
_BACKENDS: Any = torch.backends  # its types do not name the switches
# Device -> the switches of the library that computes there.
_SWITCHES: dict[str, tuple[Any, ...]] = {
    "cpu": (_BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv),
    "cuda": (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv),
}


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
    return values.float() if is_short(values) else values


def is_short(values: Tensor) -> bool:
    """Whether values have fewer than 32 bits."""
    return values.dtype in _SHORT


def as_autocast_would(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Arguments of a product in autocast's dtype, for operations that autocast does not know."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    x, weight = (t.to(dtype) if t.dtype in _CAST else t for t in (x, weight))
    return x, weight, bias.to(dtype) if bias is not None and bias.dtype in _CAST else bias


@contextmanager
def full_precision(device: torch.device) -> Generator[None]:
    """Within, products of float32 are products of float32, whatever the user allowed the model."""
    held = _held.get(device.type)
    with without_autocast(device):
        if held is None:
            yield
            return
        held.take()
        try:
            yield
        finally:
            held.let_go()


def without_autocast(device: torch.device) -> torch.autocast:
    """For backward passes: their operations keep the dtypes of the forward pass by themselves."""
    return torch.autocast(device.type, enabled=False)


def autocast_now(device: torch.device) -> torch.autocast:
    """The autocast in force, to be entered again later."""
    kind = device.type
    return torch.autocast(
        kind,
        torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )


class _Held:
    """Switches at full precision for as long as anybody needs it: they belong to the process, not to a
    thread."""

    def __init__(self, switches: tuple[Any, ...]) -> None:
        self._switches = switches
        self._lock = threading.Lock()
        self._users = 0
        self._before: dict[int, str] = {}

    def take(self) -> None:
        """Switch to full precision; remember what was set."""
        with self._lock:
            self._users += 1
            for number, switch in enumerate(self._switches):
                value = switch.fp32_precision
                if value not in _FULL:
                    self._before.setdefault(number, value)
                    switch.fp32_precision = "ieee"

    def let_go(self) -> None:
        """The last one out puts back what was set."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for number, value in self._before.items():
                switch = self._switches[number]
                switch.fp32_precision = "none"  # where the value came from the switch for all operations
                if switch.fp32_precision != value:
                    switch.fp32_precision = value
            self._before.clear()


_held = {kind: _Held(switches) for kind, switches in _SWITCHES.items()}
