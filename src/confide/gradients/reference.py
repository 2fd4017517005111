# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Per-sample gradients in the plainest way: by `vmap`, and one sample at a time.

Both are references: slow, short, and without any of the engine's code. The engine falls back to them for
models that it cannot take apart, and the tests hold it to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_leaves, tree_map

from confide.errors import LossError
from confide.gradients.outsiders import Watched
from confide.gradients.walking import trainable

Loss = Callable[[nn.Module, Any], Tensor]


def batch_length(batch: Any) -> int:
    """Leading dimension of a batch.

    Raises:
        LossError: If the batch holds no tensor, or tensors of different lengths.
    """
    lengths = {len(leaf) if leaf.dim() else -1 for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
    if len(lengths) != 1 or -1 in lengths:
        raise LossError(
            f"a batch needs tensors of one leading dimension, found lengths {sorted(lengths)}",
            remedy="Put everything that belongs to a sample into one row of each tensor.",
        )
    return lengths.pop()


def pick(batch: Any, rows: Tensor | slice) -> Any:
    """Some rows of a batch, by their numbers."""

    def picked(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach()[rows.to(leaf.device) if isinstance(rows, Tensor) else rows]

    return tree_map(picked, batch)


def stand_in(batch: Any) -> Any:
    """Random numbers for every floating-point number of a batch, in [0, 1]: as targets, some losses take no
    others; and for images of bytes, 0 to 255. Other integers are labels and stay."""

    def random(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_floating_point():
            return _unlike_rows(leaf)
        if is_image_of_bytes(leaf):
            return (_unlike_rows(leaf.float()) * 255).round().to(torch.uint8)
        return leaf

    return tree_map(random, batch)


def is_image_of_bytes(leaf: Tensor) -> bool:
    """Whether a tensor of a batch holds pixels, not labels."""
    return leaf.dtype == torch.uint8 and leaf.dim() >= 3


def _unlike_rows(like: Tensor) -> Tensor:
    """Random rows (B, ...) in [0, 1], each of its own brightness, with noise and stripes along each axis.

    Of plain noise all rows have the same averages. A layer that mixes them behind a global average would
    change next to nothing, and pass.
    """
    rest = range(1, like.dim())
    kept = [tuple(rest), *((axis,) for axis in reversed(rest)), ()]  # along the other axes: constant
    count, device = torch.arange(len(like)), like.device
    shares = torch.rand(len(like), len(kept)) * 0.2
    shares[:, 0] += 0.2  # none of one grey
    shares[count, count % len(kept)] += 1.0
    bright = 0.2 + 0.8 * (count * 0.618).frac()
    shares = (shares * (bright / shares.sum(1))[:, None]).to(device)
    rows = torch.zeros(like.shape, device=device)
    for number, axes in enumerate(kept):
        shape = [n if axis in (0, *axes) else 1 for axis, n in enumerate(like.shape)]
        rows += shares[:, number].view(-1, *[1] * len(rest)) * torch.rand(shape, device=device)
    return rows.clamp_(0.0, 1.0).to(like.dtype)


def check_losses(losses: Any, rows: int) -> Tensor:
    """The losses, if they are one per row.

    Raises:
        LossError: If they are not.
    """
    if not isinstance(losses, Tensor):
        raise LossError(
            f"the loss returned {type(losses).__name__}", remedy="Return a tensor with one value per sample."
        )
    if losses.shape != (rows,):
        hint = (
            ' Use reduction="none".'
            if losses.dim() == 0
            else " Average each sample's own pixels, not the samples."
        )
        raise LossError(
            f"the loss returned shape {tuple(losses.shape)} for a batch of {rows}",
            why="Averaged losses hide the single samples, which must be clipped one by one.",
            remedy=f"Return shape ({rows},): one value per sample.{hint}",
        )
    return losses


class _Called(nn.Module):
    """Runs `loss(model, batch)` with replaced parameters: a loss may use its model in any way."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.model, batch)


def per_sample_gradients(
    model: nn.Module, loss: Loss, batch: Any, *, chunk_size: int | None = None
) -> dict[str, Tensor]:
    """Gradient of each sample's loss: name -> (B, *parameter shape), by `vmap` of the whole model.

    Raises:
        LossError: If the loss does not return one value per sample.
        ModelError: If the model has no trainable parameter.
    """
    return vmap_gradients(model, loss, batch, chunk_size)[0]


def vmap_gradients(
    model: nn.Module, loss: Loss, batch: Any, chunk_size: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Per-sample gradients name -> (B, *shape) and losses (B,)."""
    rows = batch_length(batch)
    values = {name: p.detach() for name, p in trainable(model).items()}
    if rows == 0:
        device = next(iter(values.values())).device
        return {n: v.new_zeros((0, *v.shape)) for n, v in values.items()}, torch.zeros(0, device=device)
    called = _Called(model, loss)

    def one(given: dict[str, Tensor], row: Any) -> Tensor:
        losses = functional_call(
            called, {f"model.{n}": v for n, v in given.items()}, (tree_map(_unsqueeze, row),)
        )
        return check_losses(losses, 1)[0]

    gradients, losses = vmap(
        grad_and_value(one), in_dims=(None, 0), randomness="different", chunk_size=chunk_size
    )(values, batch)
    return gradients, losses.detach()


def _unsqueeze(leaf: Any) -> Any:
    return leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf


def loop_gradients(model: nn.Module, loss: Loss, batch: Any) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """One sample at a time by ordinary autograd: for each row its gradients name -> (*shape) and its loss ().

    A parameter that the loss does not use has gradient zero.
    """
    parameters = trainable(model)
    for row in range(batch_length(batch)):
        part = tree_map(_laid_out, pick(batch, slice(row, row + 1)))
        with torch.enable_grad(), Watched(list(parameters.values())):
            value = check_losses(loss(model, part), 1)[0]
            gradients = _own_gradients(value, parameters)
        yield gradients, value.detach()


def _laid_out(leaf: Any) -> Any:
    """A copy in the ordinary layout: torch 2.13 crashes in the backward pass of a GroupNorm whose input is in
    channels-last layout and needs no gradient. (`contiguous` leaves such strides of one channel as they are.)
    """
    return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _own_gradients(value: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradients of one loss, by `backward`: `autograd.grad` passes by checkpoints of the re-entrant kind."""
    before = {name: p.grad for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    try:
        if value.requires_grad:
            value.backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
            for name, p in parameters.items()
        }
    finally:
        for name, parameter in parameters.items():
            parameter.grad = before[name]
