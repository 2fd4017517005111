# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Sees every torch function of a forward pass, and replaces those that use a trainable parameter.

A `TorchFunctionMode` knows parameters by identity, so it does not matter which module calls what, how
often, or whether a parameter belongs to a leaf module at all. Three kinds of tensors are told apart:

- *derived*: computed from parameters and constants only (a parameter itself, a re-scaled weight, a
  steerable filter);
- *rows*: computed from the batch; one slice of the leading dimension belongs to one sample;
- everything else is constant.

A function of derived tensors only runs as usual. A function of both must have a rule, which runs it in a
way that records per-unit gradients of the derived tensor in the backward pass. Nothing is stored on tensors
or modules.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from confide.gradients.axes import MOVING, batch_axis
from confide.gradients.captures import Capture, Instantiated, Shelf
from confide.gradients.outsiders import Outsiders
from confide.gradients.tuning import kernel_mode
from confide.gradients.units import Units


class Unsupported(Exception):
    """An operation on a parameter that no rule covers; the engine falls back.

    Attributes:
        parameters: ids of the parameters or derived tensors that it used.
    """

    def __init__(self, reason: str, parameters: tuple[int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parameters = parameters


OpRule = Callable[..., Any]
# Within, torch functions run without being seen by any recorder.
unseen = torch._C.DisableTorchFunction  # pyright: ignore[reportPrivateUsage]


class Recorder(TorchFunctionMode):
    """The state of one forward and backward pass.

    Attributes:
        units: Rows and their units.
        captures: derived tensor's id -> its uses, filled during the backward pass.
        targets: id -> derived tensor that has uses.
        doubtful: Why a check against the oracle is due: an axis was taken to be the batch by its length only.
        copies: How often a derived tensor was copied so far: what tells doubts about copies apart.
    """

    def __init__(
        self, rules: dict[Any, OpRule], units: Units, parameters: list[Tensor], rows: list[Tensor]
    ) -> None:
        super().__init__()
        self.units = units
        self.batch = len(units.index)
        self.captures: dict[int, list[Capture]] = {}
        self.targets: dict[int, Tensor] = {}
        self._shelf = Shelf.of(parameters, units.count)
        self.doubtful: set[str] = set()
        self.copies = 0
        self.outsiders = Outsiders()
        self._rules = rules
        self._derived: dict[int, Tensor] = {id(p): p for p in parameters}
        self._rows: dict[int, weakref.ref[Tensor]] = {}
        self._axes: dict[int, int] = {}
        self.kernels = kernel_mode()
        self.aside = False
        # Functions get weights detached, lest the backward pass walk (and free) the graph of derived
        # tensors; this leaf makes their outputs require a gradient even where the input does not.
        self.anchor = torch.zeros((), requires_grad=True)
        for tensor in rows:
            self.mark_rows(tensor)

    # -- what is what ------------------------------------------------------------------------------

    def is_derived(self, value: object) -> bool:
        """Whether a value was computed from parameters and constants only, and needs a gradient."""
        return id(value) in self._derived

    def is_rows(self, value: object) -> bool:
        """Whether a value was computed from the batch."""
        found = self._rows.get(id(value))
        return found is not None and found() is value

    def axis(self, value: Any) -> int:
        """Which dimension of a tensor computed from the batch holds it; -1 where that is unknown."""
        return self._axes.get(id(value), 0)

    def mark_rows(self, value: Any, axis: int = 0) -> None:
        """Remember the tensors of an output as rows, the batch along `axis`."""
        if isinstance(value, Tensor):
            key = id(value)
            self._rows[key] = weakref.ref(value, lambda _, key=key, rows=self._rows: rows.pop(key, None))
            if axis:
                self._axes[key] = axis
            elif self._axes:
                self._axes.pop(key, None)
        elif isinstance(value, list | tuple):
            for item in value:
                self.mark_rows(item, axis)

    def mark_derived(self, value: Any) -> None:
        """Remember the tensors of an output as derived."""
        if isinstance(value, Tensor):
            if value.requires_grad:
                self._derived[id(value)] = value
        elif isinstance(value, list | tuple):
            for item in value:
                self.mark_derived(item)

    # -- the functions -----------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        derived, rows = self._sort(args, kwargs)
        rule = self._rules.get(func)
        axis = batch_axis(self, func, args, kwargs) if rows and (self._axes or func in MOVING) else 0
        if derived and rows and self._axes and func is not F.multi_head_attention_forward:
            self._require_front(args, kwargs, tuple(derived), func)
        if derived and rows and rule is None:
            raise Unsupported(f"no rule for {_name(func)} on a parameter and the batch", tuple(derived))
        if rule is not None and ((derived and rows) or rule in _ALWAYS):
            out = rule(self, func, args, kwargs)
        else:
            out = func(*args, **kwargs)
        if rows:
            self.mark_rows(out, axis)
        elif derived and not self.is_rows(out):
            self.mark_derived(out)
        return out

    def _require_front(self, args: Any, kwargs: dict[str, Any], derived: tuple[int, ...], func: Any) -> None:
        for value in (*args, *kwargs.values()):
            if self.is_rows(value) and self.axis(value) != 0:
                raise Unsupported(f"{_name(func)} on a tensor that does not hold the batch in front", derived)

    def _sort(self, args: Any, kwargs: dict[str, Any]) -> tuple[list[int], bool]:
        """ids of the derived tensors among the arguments, and whether any argument is rows."""
        derived: list[int] = []
        rows = False
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, Tensor):
                if id(value) in self._derived:
                    derived.append(id(value))
                    continue
                if not rows and self.is_rows(value):
                    rows = True
                if value.requires_grad and value.is_leaf:
                    self.outsiders.meet(value)
            elif isinstance(value, list | tuple):
                inner, any_rows = self._sort(value, {})
                derived += inner
                rows = rows or any_rows
        return derived, rows

    # -- recording ---------------------------------------------------------------------------------

    def record(self, target: Tensor, capture: Capture) -> None:
        """Keep one use of a derived tensor; called from backward passes."""
        key = id(target)
        self.targets[key] = target
        self.captures.setdefault(key, []).append(self._shelf.kept(capture))

    def wants(self, target: Tensor | None) -> bool:
        """Whether a weight or bias is to be trained."""
        return target is not None and id(target) in self._derived

    def rows_of(self, value: Tensor, what: str) -> Tensor:
        """A view of `value` whose leading dimension is the batch: (B, ...) or (B, m, ...) for merged windows.

        Raises:
            Unsupported: If no reading of its shape has the batch in front.
        """
        length = value.shape[0] if value.dim() else 0
        if length == self.batch:
            return value
        if length and length % self.batch == 0:
            self.doubtful.add(f"{what}: rows are taken to stand together by sample")
            return value.unflatten(0, (self.batch, length // self.batch))
        raise Unsupported(
            f"{what} on a tensor of shape {tuple(value.shape)}, which does not start with the batch"
        )


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


# Rules that run whatever their arguments are: refusals of batch statistics, and copies of a parameter for
# each sample.
_ALWAYS: set[OpRule] = set()


def always(rule: OpRule) -> OpRule:
    """Mark a rule as one that runs on every call."""
    _ALWAYS.add(rule)
    return rule


class PerSample(torch.autograd.Function):
    """A view of a derived tensor with leading dimension 1, as one copy for each sample; records what flows
    back.

    `target` holds the derived tensor itself, of which `value` is a reshaped and detached view. (A list, so
    that autograd does not take it for an input.)
    """

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, anchor: Tensor, value: Tensor, target: list[Tensor]) -> Tensor:
        ctx.recorder, ctx.target = recorder, target[0]
        return value.expand(recorder.batch, *value.shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        with unseen():
            per_unit = ctx.recorder.units.sum_rows(grads[0])
            ctx.recorder.record(
                ctx.target, Instantiated(per_unit.reshape(len(per_unit), *ctx.target.shape).contiguous())
            )
        return None, None, None, None
