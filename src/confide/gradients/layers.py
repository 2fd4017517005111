# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Whole layers with a rule of their own, and `vmap` of single layers that have none.

Such a layer's `forward` is replaced on the instance for one pass and put back afterwards, also after an
exception.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from confide.gradients.captures import Instantiated
from confide.gradients.precision import autocast_now
from confide.gradients.recorder import Recorder, Unsupported, unseen
from confide.gradients.rules import FORWARDS, LAYERS, ForwardRule, LayerRule
from confide.gradients.walking import named_layers


def vmap_rule(layer: nn.Module, inputs: tuple[Any, ...], grad_output: Tensor) -> dict[str, Tensor]:
    """Per-sample gradients of any layer that works on one sample at a time: `vmap` of this layer alone."""
    values = {name: p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in layer.named_parameters() if not p.requires_grad}

    def one(row: tuple[Tensor, ...], grad: Tensor) -> dict[str, Tensor]:
        def run(given: dict[str, Tensor]) -> Tensor:
            return functional_call(layer, fixed | given, tuple(x[None] for x in row))

        return vjp(run, values)[1](grad[None])[0]

    try:
        return vmap(one, randomness="different")(tuple(x.detach() for x in inputs), grad_output)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise Unsupported(
            f"vmap cannot run {type(layer).__name__}: {' '.join(str(error).split())[:120]}"
        ) from None


class OwnRule(torch.autograd.Function):
    """A layer run without its parameters' graph; the backward pass runs it again for the input gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        recorder: Recorder,
        layer: nn.Module,
        handler: LayerRule,
        run: Any,
        anchor: Tensor,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.recorder, ctx.layer, ctx.handler, ctx.run = recorder, layer, handler, run
        ctx.autocast = autocast_now(anchor.device if not inputs else inputs[0].device)
        ctx.save_for_backward(*inputs)
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        inputs = ctx.saved_tensors
        with unseen():
            recorder: Recorder = ctx.recorder
            needs = ctx.needs_input_grad[5:]
            leaves = [x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
            wanted = [x for x in leaves if x.requires_grad]
            backward: list[Tensor | None] = [None] * len(leaves)
            if wanted:
                with torch.enable_grad(), ctx.autocast:
                    each = iter(torch.autograd.grad(ctx.run(*leaves), wanted, grads[0]))
                backward = [next(each) if x.requires_grad else None for x in leaves]
            parameters = dict(ctx.layer.named_parameters())
            # The handler may call the layer itself, and means the original.
            recorder.aside = True
            try:
                with ctx.autocast:
                    found = ctx.handler(ctx.layer, inputs, grads[0])
            finally:
                recorder.aside = False
            for name, values in found.items():
                recorder.record(parameters[name], Instantiated(recorder.units.sum_rows(values)))
        return (None, None, None, None, None, *backward)


def _wrapped(recorder: Recorder, layer: nn.Module, handler: LayerRule) -> Any:
    run = layer.forward

    def forward(*inputs: Any, **kwargs: Any) -> Any:
        if recorder.aside:
            return run(*inputs, **kwargs)
        plain = not kwargs and all(isinstance(x, Tensor) and recorder.is_rows(x) for x in inputs)
        if not plain or any(len(x) != recorder.batch or recorder.axis(x) for x in inputs):
            raise Unsupported(
                f"{type(layer).__name__} was called with other arguments than rows of the batch"
            )
        before = torch.get_rng_state()
        with unseen():
            out = OwnRule.apply(recorder, layer, handler, run, recorder.anchor, *inputs)
        if handler is vmap_rule and not torch.equal(before, torch.get_rng_state()):
            raise Unsupported(f"{type(layer).__name__} draws random numbers, and would draw others again")
        if not isinstance(out, Tensor):
            raise Unsupported(f"{type(layer).__name__} returns several tensors")
        recorder.mark_rows(out)
        return out

    return forward


def _forwarded(recorder: Recorder, layer: nn.Module, handler: ForwardRule) -> Any:
    run = layer.forward

    def forward(*inputs: Any, **kwargs: Any) -> Any:
        out = NotImplemented if recorder.aside else handler(recorder, layer, *inputs, **kwargs)
        return run(*inputs, **kwargs) if out is NotImplemented else out

    return forward


def _replacement(recorder: Recorder, layer: nn.Module, by_vmap: bool) -> Any:
    """The forward that a layer has during the pass; none where its operations are seen one by one."""
    own = LAYERS.get(type(layer))
    if own is not None or by_vmap:
        return _wrapped(recorder, layer, own or vmap_rule)
    handler = FORWARDS.get(type(layer))
    return None if handler is None else _forwarded(recorder, layer, handler)


@contextmanager
def own_rules(model: nn.Module, recorder: Recorder, by_vmap: frozenset[str] = frozenset()) -> Generator[None]:
    """Within, layers with a rule of their own, and those named in `by_vmap`, run by it."""
    changed: list[nn.Module] = []
    try:
        for name, layer in named_layers(model):
            kind = type(layer)
            if not (kind in LAYERS or kind in FORWARDS or name in by_vmap):
                continue
            if not any(p.requires_grad for p in layer.parameters()):
                continue
            replaced = "forward" in vars(layer)
            forward = _replacement(recorder, layer, name in by_vmap)
            if forward is None or (replaced and kind in FORWARDS):
                continue  # a forward that someone else has replaced is seen as it runs
            if replaced:
                raise Unsupported(f"{type(layer).__name__} already has a replaced forward")
            layer.forward = forward
            if vars(layer).get("forward") is not forward:  # traced or scripted
                raise Unsupported(f"{type(layer).__name__} keeps its forward")
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward
