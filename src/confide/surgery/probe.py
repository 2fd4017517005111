# SPDX-License-Identifier: Apache-2.0
"""What a model does to the rows of a batch, found by running it.

Each row of a batch is replaced in turn, with the same randomness, and the values that change are marked,
layer by layer. A layer mixes the samples exactly when no value of its inputs is touched by two rows but some
value of its outputs is. This asks nothing about the layout of the values, so it holds where windows are
folded into the batch, or the sequence comes first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from confide.surgery.inputs import BATCH, Call
from confide.surgery.layers import deep_copy

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Behaviour:
    """Layer names, each list in the order in which the layers ran."""

    mixing: tuple[str, ...]
    misaligned: bool
    remembering: bool
    changed_buffers: tuple[str, ...]
    counting_buffers: tuple[str, ...]
    erasing: tuple[str, ...]
    overwrites_input: bool


def practice_copy(model: nn.Module) -> nn.Module:
    """A copy to experiment on, in training mode, in which no weight is zero and hides what follows it."""
    practice = deep_copy(model)
    if not practice.training:
        practice.train()
    return practice


def wake_zero_weights(model: nn.Module) -> None:
    """Give small random values to all-zero parameters, such as the last scale of a residual branch."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))


def observe(model: nn.Module, call: Call) -> Behaviour:
    """Run copies of the model on a batch and on its variations.

    Args:
        model: In training mode; left as it is.
        call: A batch that the model accepts.
    """
    start = _buffers(model)
    base, after = _run(model, call)
    again, _ = _run(model, call)
    noise = [record.difference(other) for record, other in zip(base, again, strict=False)]
    changes = []
    for row in range(BATCH):
        other, _ = _run(model, call.with_new_row(row))
        changes.append([a.changed(b, level) for a, b, level in zip(base, other, noise, strict=False)])
    _, after_others = _run(model, call.with_new_rows())
    buffers = [name for name in start if not _same(start[name], after[name])]
    by_data = [name for name in buffers if not _same(after[name], after_others[name])]
    steps = min(len(row) for row in changes)
    by_step = [[row[step] for row in changes] for step in range(steps)]
    names = [record.name for record in base[:steps]]
    return Behaviour(
        mixing=_deepest([name for name, rows in zip(names, by_step, strict=True) if _mixes(rows)]),
        misaligned=_misaligned(by_step[-1]) if names[-1] == "" else False,
        remembering=_remembers(model, call),
        changed_buffers=tuple(by_data),
        counting_buffers=tuple(name for name in buffers if name not in by_data),
        erasing=_erasing(model, names, by_step),
        overwrites_input=_overwrites(model, call),
    )


@dataclass(frozen=True)
class _Record:
    """One call of one layer: its tensors going in and coming out."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]

    def difference(self, other: _Record) -> float:
        """Largest deviation between two runs; of the same batch: what the device leaves undetermined."""
        pairs = [
            (a, b)
            for a, b in zip(self.outputs, other.outputs, strict=False)
            if a.shape == b.shape and a.numel()
        ]
        return max(
            (float((a.double() - b.double()).abs().nan_to_num(0.0).max()) for a, b in pairs), default=0.0
        )

    def changed(self, other: _Record, level: float) -> _Change:
        """Which values differ by more than twice the device's own deviation."""
        inputs, outputs = _marks(self.inputs, other.inputs, level), _marks(self.outputs, other.outputs, level)
        return _Change(inputs, outputs, self.difference(other))


@dataclass(frozen=True)
class _Change:
    """Masks of the values that changed, and the largest change of an output."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    size: float


def _marks(before: list[Tensor], after: list[Tensor], level: float) -> list[Tensor]:
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a.shape == b.shape]
    return [
        ~torch.isclose(a.double(), b.double(), rtol=0.0, atol=2 * level, equal_nan=True) for a, b in pairs
    ]


def _shared(marks: list[list[Tensor]]) -> bool:
    """Whether some value is touched by more than one row. marks: one list of masks per row."""
    return any(bool((torch.stack(masks).sum(0) > 1).any()) for masks in zip(*marks, strict=False))


def _mixes(rows: list[_Change]) -> bool:
    return not _shared([row.inputs for row in rows]) and _shared([row.outputs for row in rows])


def _misaligned(rows: list[_Change]) -> bool:
    """Whether row i of an output with `BATCH` rows depends on another sample instead of on sample i."""
    for i, row in enumerate(rows):
        for mask in row.outputs:
            if mask.ndim and len(mask) == BATCH:
                others = torch.ones(BATCH, dtype=torch.bool)
                others[i] = False
                if mask[others.to(mask.device)].any():
                    return True
    return False


def _erasing(model: nn.Module, names: list[str], by_step: list[list[_Change]]) -> tuple[str, ...]:
    layers = dict(model.named_modules())
    found = []
    for name, rows in zip(names, by_step, strict=True):
        touched = all(any(bool(mask.any()) for mask in row.inputs) for row in rows)
        # A normalised value that carries anything moves by about 1; x - mean(x) leaves rounding errors.
        passed = any(row.size > 1e-3 for row in rows)
        if isinstance(layers[name], NORMS) and touched and not passed:
            found.append(name)
    return tuple(dict.fromkeys(found))


def _deepest(names: list[str]) -> tuple[str, ...]:
    """Without the parents of other names: a parent only passes on what its child mixed."""
    unique = dict.fromkeys(names)
    return tuple(n for n in unique if not any(o != n and (not n or o.startswith(n + ".")) for o in unique))


def _run(model: nn.Module, call: Call) -> tuple[list[_Record], dict[str, Tensor]]:
    """The calls of all layers of a fresh copy, and its buffers afterwards."""
    fresh = deep_copy(model)
    return _recorded(fresh, call), _buffers(fresh)


def _recorded(model: nn.Module, call: Call) -> list[_Record]:
    records: list[_Record] = []
    entered: dict[int, list[list[Tensor]]] = {}

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        entered.setdefault(id(module), []).append(_values((args, kwargs)))

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            records.append(_Record(name, entered[id(module)].pop(), _values(output)))

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after(name), with_kwargs=True))
        with torch.no_grad(), same_randomness(model):
            call.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return records


def _values(tree: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def same_randomness(model: nn.Module) -> Iterator[None]:
    """Draw the same dropout masks every time, and leave torch's generators as they were."""
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(0)
        yield


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(
        torch.isclose(one.double(), other.double(), equal_nan=True).all()
    )


def _remembers(model: nn.Module, call: Call) -> bool:
    """Whether an earlier batch changes the outputs for a later one although all buffers were put back.

    Finds averages that a layer keeps in a plain attribute, where no state dict shows them.
    """
    start = _buffers(model)
    outputs = []
    for earlier in (call, call, call.with_new_rows()):
        fresh = deep_copy(model)
        with torch.no_grad(), same_randomness(fresh):
            earlier.run(fresh)
            for name, buffer in fresh.named_buffers():
                buffer.copy_(start[name])
        outputs.append(_recorded(fresh, call)[-1])
    level = outputs[0].difference(outputs[1])
    return any(bool(mask.any()) for mask in outputs[0].changed(outputs[2], level).outputs)


def _overwrites(model: nn.Module, call: Call) -> bool:
    fresh = deep_copy(model)
    args, kwargs = copy.deepcopy((call.args, call.kwargs))
    with torch.no_grad(), same_randomness(fresh):
        fresh(*args, **kwargs)
    given = Call(args, kwargs)
    return any(not _same(a, b) for a, b in zip(given.tensors(), call.tensors(), strict=True))
