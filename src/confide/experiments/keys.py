# SPDX-License-Identifier: Apache-2.0
"""Every key of an experiment file, with its default and what it means: for `--keys` and the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from confide.experiments.config import Experiment


@dataclass(frozen=True)
class Key:
    """One key: `training.batch_size`, its values, its default, its meaning."""

    name: str
    values: str
    default: str
    meaning: str


def keys() -> Iterator[Key]:
    """All keys, in the order of the file."""
    yield from _of(Experiment, "")


def _of(section: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, info in section.model_fields.items():
        inner = _section(info.annotation)
        meaning = info.description or ((inner.__doc__ or "").strip().splitlines()[0] if inner else "")
        yield Key(prefix + name, _values(info.annotation), _default(info), meaning)
        if inner is not None:
            yield from _of(inner, f"{prefix}{name}.")


def _section(kind: Any) -> type[BaseModel] | None:
    """The section among the types of a key, if there is one."""
    return next(
        (t for t in (kind, *get_args(kind)) if isinstance(t, type) and issubclass(t, BaseModel)), None
    )


def _values(kind: Any) -> str:
    """What a key may hold, in a word."""
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if _section(kind) is not None:
        return "section or none" if get_args(kind) else "section"
    if get_origin(kind) is tuple:
        return "list"
    parts = [part for part in get_args(kind) if part is not type(None)]
    # Annotated[float, ...] has the type first and its constraints after it.
    if parts and get_origin(kind) is not None:
        return _values(parts[0])
    words = {float: "number", int: "whole number", str: "text", bool: "true, false"}
    return words.get(kind, getattr(kind, "__name__", str(kind)).lower().replace("privacyunit", "unit"))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if info.default is PydanticUndefined or isinstance(info.default, BaseModel) or info.default is None:
        return ""
    return (
        "[]"
        if info.default == ()
        else str(info.default).lower()
        if isinstance(info.default, bool)
        else str(info.default)
    )


def markdown() -> str:
    """The keys as a Markdown table."""
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{k.name}` | {k.values} | {k.default} | {k.meaning} |" for k in keys()]
    return "\n".join(lines) + "\n"
