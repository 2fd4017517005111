# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""What a forward pass leaves behind in a model: un-noised traces of a batch, however they were written."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from confide.errors import UnsupportedLayerError
from confide.gradients.walking import named_layers

# Identity, and two sums of the values: enough to see that they changed, without a copy of the model.
Trace = tuple[int, str]


def traces(model: nn.Module) -> dict[str, Trace]:
    """Of every parameter, buffer and tensor attribute, by its name."""
    return {name: (id(tensor), _sums(tensor.detach())) for name, tensor in _tensors(model)}


def refuse_traces(before: dict[str, Trace], after: dict[str, Trace]) -> None:
    """Refuse what changed: any parameter and buffer, and attributes written in place.

    An attribute that each pass sets anew, as a map of attention to be looked at, is no state.

    Raises:
        UnsupportedLayerError: Names the tensor and the remedy.
    """
    for name, (owner, sums) in after.items():
        known = before.get(name)
        if known is None or known[1] == sums or (name.endswith(_ATTRIBUTE) and known[0] != owner):
            continue
        raise UnsupportedLayerError(
            f"{name.removesuffix(_ATTRIBUTE)!r} changes in a training forward pass",
            why="It would carry un-noised traces of the batch out of the mechanism.",
            remedy="Freeze it while training privately, or call .eval() on its layer.",
        )


_ATTRIBUTE = " (attribute)"


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for front, layer in named_layers(model, anew=True):
        lead = f"{front}." if front else ""
        for own in (layer._parameters, layer._buffers):  # pyright: ignore[reportPrivateUsage]
            yield from ((lead + key, tensor) for key, tensor in own.items() if tensor is not None)
        for key, value in vars(layer).items():
            if isinstance(value, Tensor):
                yield f"{lead}{key}{_ATTRIBUTE}", value


def _sums(values: Tensor) -> str:
    """Of values and of their squares; as text, in which NaN equals NaN."""
    if values.is_complex():
        values = torch.view_as_real(values)
    if not values.is_floating_point():
        values = values.double()
    squares = torch.linalg.vector_norm(values, dtype=torch.float64)
    return f"{float(values.sum(dtype=torch.float64))!r} {float(squares)!r}"
