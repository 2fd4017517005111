# SPDX-License-Identifier: Apache-2.0
# pyright: reportPrivateUsage=false
"""The layers and parameters of a model, as `named_modules` and `named_parameters` give them.

Those are generators within generators, and a step walks through its model several times: in a small network
they took a tenth of the step.
"""

from __future__ import annotations

from torch import nn

from confide.errors import ModelError


def named_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and layer, the model itself first under the name ""; a shared layer once, under its first name."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        found.append((name, layer))
        front = f"{name}." if name else ""
        inner = [(front + key, part) for key, part in layer._modules.items() if part is not None]
        waiting += reversed(inner)
    return found


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, of the parameters to be trained; a shared parameter appears once.

    Raises:
        ModelError: If there is none.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for front, layer in named_layers(model):
        for key, parameter in layer._parameters.items():
            if parameter is not None and parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{front}.{key}" if front else key] = parameter
    if not found:
        raise ModelError(
            "the model has no trainable parameter", remedy="Set requires_grad on what is to be trained."
        )
    return found
