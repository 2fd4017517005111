# SPDX-License-Identifier: Apache-2.0
# pyright: reportPrivateUsage=false
"""The layers and parameters of a model, as `named_modules` and `named_parameters` give them.

Those are generators within generators, and a step walks through its model several times: in a small network
they took a tenth of the step.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property

from torch import nn

from confide.errors import ModelError


class Walk:
    """A model's layers as they were found."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = _layers(model)

    @cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, of those to be trained."""
        found: dict[str, nn.Parameter] = {}
        seen: set[int] = set()
        for front, layer in self.layers:
            own = layer._parameters
            for key, parameter in own.items() if own else ():
                if parameter is not None and parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    found[f"{front}.{key}" if front else key] = parameter
        return found


_known: ContextVar[Walk | None] = ContextVar("confide_walk", default=None)


@contextmanager
def walked_once(model: nn.Module) -> Generator[None]:
    """Within, the model's layers, and which parameters are trained, are taken to be what they are now."""
    token = _known.set(Walk(model))
    try:
        yield
    finally:
        _known.reset(token)


def _walk(model: nn.Module) -> Walk:
    known = _known.get()
    return known if known is not None and known.model is model else Walk(model)


def named_layers(model: nn.Module, *, anew: bool = False) -> list[tuple[str, nn.Module]]:
    """Name and layer, the model itself first under the name ""; a shared layer once, under its first name.

    anew: Look again, also within `walked_once`.
    """
    return _layers(model) if anew else _walk(model).layers


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        found.append((name, layer))
        if layer._modules:
            front = f"{name}." if name else ""
            inner = [(front + key, part) for key, part in layer._modules.items() if part is not None]
            waiting += reversed(inner)
    return found


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, of the parameters to be trained; a shared parameter appears once.

    Raises:
        ModelError: If there is none.
    """
    found = _walk(model).trainable
    if not found:
        raise ModelError(
            "the model has no trainable parameter", remedy="Set requires_grad on what is to be trained."
        )
    return found
