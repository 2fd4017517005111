# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Tensors that ask for a gradient and are not the model's: nothing un-clipped may be left on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from confide.errors import ModelError


class Outsiders:
    """Leaves that a loss meets besides the model's own parameters, and the gradients they had before."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Tensor, Tensor | None]] = {}

    def meet(self, leaf: Tensor) -> None:
        """Take the gradient of a leaf away until `release`."""
        if id(leaf) not in self._found and torch.is_grad_enabled():
            self._found[id(leaf)] = (leaf, leaf.grad)
            leaf.grad = None

    def refuse(self) -> None:
        """Refuse a trainable parameter that a gradient has reached.

        Raises:
            ModelError: Says what it looks like and what to do.
        """
        for leaf, _ in self._found.values():
            if isinstance(leaf, nn.Parameter) and leaf.grad is not None:
                raise ModelError(
                    f"the loss trains a parameter of shape {tuple(leaf.shape)} that is not the model's",
                    why="Its gradient would be neither clipped nor noised.",
                    remedy="Make it a parameter of the model, or detach it.",
                )

    def release(self) -> None:
        """Put back the gradients that were there."""
        for leaf, before in self._found.values():
            leaf.grad = before
        self._found.clear()


class Watched(TorchFunctionMode):
    """Within, leaves that are not among these parameters are `Outsiders`; refused and released at the end."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self._own = {id(parameter) for parameter in parameters}
        self._outsiders = Outsiders()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._look((*args, *kwargs.values()) if kwargs else args)
        return func(*args, **(kwargs or {}))

    def _look(self, values: Iterable[object]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                if value.requires_grad and value.is_leaf and id(value) not in self._own:
                    self._outsiders.meet(value)
            elif isinstance(value, list | tuple):
                self._look(value)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        try:
            if kind is None:
                self._outsiders.refuse()
        finally:
            self._outsiders.release()
