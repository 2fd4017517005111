# SPDX-License-Identifier: Apache-2.0
"""What a model does to the rows of a batch, found by running it.

Each row of a batch is replaced in turn, with the same randomness, and the values that change are marked,
layer by layer. A layer mixes the samples exactly when no value of its inputs is touched by two rows but some
value of its outputs is. This asks nothing about the layout of the values, so it holds where windows are
folded into the batch, or the sequence comes first.
"""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
    steps, after = _first_run(model, call)
    _run(model, call, steps, _Step.see_again)
    for row in range(BATCH):
        _run(model, call.with_new_row(row), steps, partial(_Step.see, row=row))
    steps = [step for step in steps if step.rows == BATCH]
    after_others = _buffers_after(model, call.with_new_rows())
    buffers = [name for name in start if not _same(start[name], after[name])]
    by_data = [name for name in buffers if not _same(after[name], after_others[name])]
    return Behaviour(
        mixing=_deepest([step.name for step in steps if step.mixes]),
        misaligned=steps[-1].misaligned if steps[-1].name == "" else False,
        remembering=_remembers(model, call),
        changed_buffers=tuple(by_data),
        counting_buffers=tuple(name for name in buffers if name not in by_data),
        erasing=_erasing(model, steps),
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


class _Touched:
    """Values of some tensors that a replaced row has changed, over several rows."""

    def __init__(self, count: int) -> None:
        self._masks: list[Tensor | None] = [None] * count
        self.shared = False  # some value by more than one row
        self.every_row = True

    def add(self, before: list[Tensor], after: list[Tensor], level: float) -> list[Tensor | None]:
        """Add a row; its own masks, where shapes are the same."""
        marks = [_marks(a, b, level) for a, b in zip(before, after, strict=False)]
        self.every_row = self.every_row and any(mask is not None and bool(mask.any()) for mask in marks)
        for place, mask in enumerate(marks):
            earlier = self._masks[place]
            if mask is not None and earlier is not None:
                self.shared = self.shared or bool((mask & earlier).any())
                mask = mask | earlier
            self._masks[place] = earlier if mask is None else mask
        return marks


class _Step:
    """A layer's call, and what the other runs showed of it. Of those no values are kept: a network's layers
    together give far more than it has weights."""

    def __init__(self, record: _Record) -> None:
        self.name = record.name
        self.rows = 0
        self.size = 0.0  # largest change of an output
        self.misaligned = False  # row i of an output depends on another sample instead of on sample i
        self._record = record
        self._level = 0.0
        self._inputs, self._outputs = _Touched(len(record.inputs)), _Touched(len(record.outputs))

    def see_again(self, other: _Record) -> None:
        """The same batch: how far values differ without a cause."""
        self._level = self._record.difference(other)

    def see(self, other: _Record, row: int) -> None:
        """A batch in which one row was replaced."""
        self.rows += 1
        self.size = max(self.size, self._record.difference(other))
        self._inputs.add(self._record.inputs, other.inputs, self._level)
        for mask in self._outputs.add(self._record.outputs, other.outputs, self._level):
            if mask is not None and mask.ndim and len(mask) == BATCH:
                others = torch.ones(BATCH, dtype=torch.bool, device=mask.device)
                others[row] = False
                self.misaligned = self.misaligned or bool(mask[others].any())

    @property
    def mixes(self) -> bool:
        """Whether no value going in was touched by two rows, and some value coming out was."""
        return not self._inputs.shared and self._outputs.shared

    @property
    def reached(self) -> bool:
        """Whether every row touched what goes in."""
        return self._inputs.every_row

    def touched(self, other: _Record) -> bool:
        """Whether another run of the same batch came out otherwise."""
        marks = zip(self._record.outputs, other.outputs, strict=False)
        return any(
            mask is not None and bool(mask.any()) for mask in (_marks(a, b, self._level) for a, b in marks)
        )


def _marks(before: Tensor, after: Tensor, level: float) -> Tensor | None:
    """Which values differ by more than twice the device's own deviation; None of another shape."""
    if before.shape != after.shape:
        return None
    return ~torch.isclose(before.double(), after.double(), rtol=0.0, atol=2 * level, equal_nan=True)


def _erasing(model: nn.Module, steps: list[_Step]) -> tuple[str, ...]:
    layers = dict(model.named_modules())
    # A normalised value that carries anything moves by about 1; x - mean(x) leaves rounding errors.
    found = [
        step.name
        for step in steps
        if isinstance(layers[step.name], NORMS) and step.reached and step.size <= 1e-3
    ]
    return tuple(dict.fromkeys(found))


def _deepest(names: list[str]) -> tuple[str, ...]:
    """Without the parents of other names: a parent only passes on what its child mixed."""
    unique = dict.fromkeys(names)
    return tuple(n for n in unique if not any(o != n and (not n or o.startswith(n + ".")) for o in unique))


def _buffers_after(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """The buffers of a fresh copy after a run."""
    fresh = deep_copy(model)
    with torch.no_grad(), same_randomness(fresh):
        call.run(fresh)
    return _buffers(fresh)


def _first_run(model: nn.Module, call: Call) -> tuple[list[_Step], dict[str, Tensor]]:
    """The calls of all layers of a fresh copy, and its buffers afterwards."""
    fresh, steps = deep_copy(model), []
    _watched(fresh, call, lambda record: steps.append(_Step(record)))
    return steps, _buffers(fresh)


def _run(
    model: nn.Module, call: Call, steps: list[_Step], compare: Callable[[_Step, _Record], object]
) -> None:
    """Compare the calls of all layers of a fresh copy with an earlier run's."""
    earlier = iter(steps)

    def seen(record: _Record) -> None:
        step = next(earlier, None)
        if step is not None:
            compare(step, record)

    _watched(deep_copy(model), call, seen)


def _watched(model: nn.Module, call: Call, seen: Callable[[_Record], None]) -> None:
    """Run the model; `seen` gets every call of a layer when it ends."""
    entered: dict[int, list[list[Tensor]]] = {}
    values = _Values()

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        entered.setdefault(id(module), []).append(values.of((args, kwargs)))

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen(_Record(name, entered[id(module)].pop(), values.of(output)))

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


class _Values:
    """Copies of tensors as they were when seen; what comes out of one layer and goes into the next is copied
    once."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[weakref.ref[Tensor], int, weakref.ref[Tensor]]] = {}

    def of(self, tree: Any) -> list[Tensor]:
        """Of the tensors of a pytree."""
        return [self._copy(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

    def _copy(self, tensor: Tensor) -> Tensor:
        if tensor.is_inference():  # counts no versions
            return tensor.detach().clone()
        original, version, copied = self._copies.get(id(tensor), (None, -1, None))
        if original is not None and copied is not None and original() is tensor:
            known = copied()
            if known is not None and tensor._version == version:
                return known
        known = tensor.detach().clone()
        self._copies[id(tensor)] = (weakref.ref(tensor), tensor._version, weakref.ref(known))
        return known


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
    last: list[_Record] = []
    for earlier in (call, call, call.with_new_rows()):
        fresh = deep_copy(model)
        with torch.no_grad(), same_randomness(fresh):
            earlier.run(fresh)
            for name, buffer in fresh.named_buffers():
                buffer.copy_(start[name])
        found: deque[_Record] = deque(maxlen=1)
        _watched(fresh, call, found.append)
        last.append(found[0])
    step = _Step(last[0])
    step.see_again(last[1])
    return step.touched(last[2])


def _overwrites(model: nn.Module, call: Call) -> bool:
    fresh = deep_copy(model)
    args, kwargs = copy.deepcopy((call.args, call.kwargs))
    with torch.no_grad(), same_randomness(fresh):
        fresh(*args, **kwargs)
    given = Call(args, kwargs)
    return any(not _same(a, b) for a, b in zip(given.tensors(), call.tensors(), strict=True))
