# SPDX-License-Identifier: Apache-2.0
"""State dictionaries as tensors and JSON: what a checkpoint can hold without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from confide.errors import CheckpointError

# Keys of the one-entry objects that stand for what JSON lacks.
_TENSOR, _PAIRS, _TUPLE, _FLOAT = "$tensor", "$pairs", "$tuple", "$float"


def pack(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON value that stands for `value`; its tensors are added to `tensors` under names that begin with
    `name`.

    Any torch optimizer's or schedule's `state_dict()` round-trips through `pack` and `unpack`, integer keys,
    tuples and infinities included.

    Raises:
        CheckpointError: If there is something else than tensors, numbers, strings, None and containers of
        them.
    """
    if isinstance(value, Tensor):
        if name in tensors:
            raise CheckpointError(f"two tensors are called {name!r}")
        tensors[name] = value
        return {_TENSOR: name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        # Pairs keep integer keys, their order, and keys that look like ours.
        return {_PAIRS: [[_key(name, k), pack(f"{name}.{k}", v, tensors)] for k, v in items]}
    if isinstance(value, list | tuple):
        packed = [pack(f"{name}.{i}", v, tensors) for i, v in enumerate(cast("list[Any]", value))]
        return packed if isinstance(value, list) else {_TUPLE: packed}
    raise CheckpointError(
        f"cannot hold a {type(value).__name__}",
        where=name,
        why="Only tensors, numbers, strings, None and containers of them are written; nothing is pickled.",
        remedy="Use an optimizer or schedule whose state consists of these.",
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`.

    Raises:
        CheckpointError: If the value was not made by `pack`, or a tensor is missing.
    """
    if isinstance(value, list):
        return [unpack(v, tensors) for v in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    match cast("dict[str, Any]", value):
        case {"$tensor": str(name)} if name in tensors:
            return tensors[name]
        case {"$pairs": pairs}:
            return {key: unpack(v, tensors) for key, v in pairs}
        case {"$tuple": items}:
            return tuple(unpack(v, tensors) for v in items)
        case {"$float": str(text)}:
            return float(text)
        case _:
            raise CheckpointError("holds a state that was not packed by confide, or lacks one of its tensors")


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _key(name: str, key: object) -> object:
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise CheckpointError(f"cannot hold a key of type {type(key).__name__}", where=name)
    return key
