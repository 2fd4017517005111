# SPDX-License-Identifier: Apache-2.0
"""The batch that an inspection runs a model on: the caller's example, or a plausible guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from confide.errors import InputError

BATCH = 3  # every pair of neighbours, and the first with the last
GUESSES = 4  # different first layers to try
SIDES = {1: (32, 64, 128), 2: (32, 28, 64, 96, 128, 224), 3: (16, 32, 64, 96)}


@dataclass(frozen=True)
class Call:
    """Arguments of one forward pass; every tensor has `BATCH` rows."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, model: nn.Module) -> Any:
        """Call the model on copies, so that nothing can write into this batch."""
        args, kwargs = tree_map(_cloned, (self.args, self.kwargs))
        return model(*args, **kwargs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first tensor."""
        return tuple(self.tensors()[0].shape)

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def with_new_row(self, row: int) -> Call:
        """The same batch with one row replaced."""
        args, kwargs = tree_map(lambda leaf: _new_row(leaf, row), (self.args, self.kwargs))
        return Call(args, kwargs)

    def with_new_rows(self) -> Call:
        """Another batch of the same shapes."""
        call = self
        for row in range(BATCH):
            call = call.with_new_row(row)
        return call


def from_example(example: Any, like: nn.Module) -> list[Call]:
    """Calls that the example may stand for, most literal first.

    Args:
        example: A batch of inputs (B, ...), a tuple or list of positional inputs, or a mapping of keyword
            inputs. Of a tuple whose first member alone fits the model, such as (images, targets), the rest is
            dropped.
        like: The model; the batch moves to its device, and floating inputs take its dtype.

    Raises:
        InputError: If it holds no tensor with a leading batch dimension, or none has rows.
    """
    leaves = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    if not leaves or any(leaf.ndim == 0 or len(leaf) == 0 for leaf in leaves):
        raise InputError(
            "the example is no batch",
            where="example",
            why="Every tensor in it needs a leading batch dimension with at least one row.",
            remedy="Give the model's input, for example torch.randn(2, 3, 32, 32).",
        )
    device, dtype = _home(like)
    example = tree_map(lambda leaf: _rows(leaf, device, dtype), example)
    if isinstance(example, Mapping):
        return [Call((), {str(key): value for key, value in example.items()})]
    if isinstance(example, Tensor):
        return [Call((example,), {})]
    return [Call(tuple(example), {}), Call((example[0],), {})]


def guessed(model: nn.Module) -> Iterator[Call]:
    """Batches that the model may accept, by the shapes of its first layers. Most will not fit."""
    device, dtype = _home(model)
    generator = torch.Generator().manual_seed(0)
    for kind, features in _signatures(model):
        for shape in _shapes(kind, features):
            if kind == "tokens":
                yield Call((torch.randint(0, features, shape, generator=generator).to(device),), {})
            else:
                yield Call((torch.randn(shape, generator=generator).to(device, dtype),), {})


def _shapes(kind: str, features: int) -> Iterator[tuple[int, ...]]:
    if kind == "tokens":
        yield from ((BATCH, 16), (BATCH,))
    elif kind == "sequence":
        yield (BATCH, 16, features)
    elif kind == "vector":
        yield from ((BATCH, features), (BATCH, 16, features))
    else:
        space = int(kind)
        yield from ((BATCH, features, *(side,) * space) for side in SIDES[space])


def _signatures(model: nn.Module) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for module in model.modules():
        for candidate in _signature(module):
            if candidate not in found:
                found.append(candidate)
        if len(found) >= GUESSES:
            break
    return found


def _signature(module: nn.Module) -> Sequence[tuple[str, int]]:
    if isinstance(module, nn.modules.conv._ConvNd):
        space = module.weight.ndim - 2 if module.in_channels else len(module.kernel_size)
        return [
            (str(space), channels) for channels in ((module.in_channels,) if module.in_channels else (3, 1))
        ]
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.num_features:
        spaces = {"1d": ("vector", "1"), "2d": ("2",), "3d": ("3",)}.get(type(module).__name__[-2:], ("2",))
        return [(space, module.num_features) for space in spaces]
    if isinstance(module, nn.Linear):
        # A lazy layer accepts any number of features.
        return [("vector", module.in_features or 8)]
    if isinstance(module, nn.RNNBase):
        return [("sequence", module.input_size)]
    if isinstance(module, nn.Embedding):
        return [("tokens", module.num_embeddings)]
    # Convolutions of other packages say their channels themselves, or through the type of their input field.
    for owner, attribute in ((module, "in_channels"), (getattr(module, "in_type", None), "size")):
        channels = getattr(owner, attribute, None)
        if isinstance(channels, int) and next(module.parameters(), None) is not None:
            return [("2", channels)]
    return []


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _rows(leaf: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    tiled = torch.cat([leaf] * -(-BATCH // len(leaf)))[:BATCH].detach()
    return tiled.to(device, dtype if leaf.is_floating_point() else leaf.dtype)


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _new_row(leaf: Any, row: int) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    changed = leaf.clone()
    if leaf.is_floating_point():
        generator = torch.Generator().manual_seed(1 + row)
        scale = leaf.std().nan_to_num(1.0).clamp_min(1e-3)
        changed[row] += scale * torch.randn(leaf[row].shape, generator=generator).to(leaf)
    elif leaf.dtype != torch.bool:
        # Labels and tokens stay within the values seen: shift them cyclically inside their range.
        low, high = int(leaf.min()), int(leaf.max())
        changed[row] = (leaf[row] - low + 1) % (high - low + 1) + low
    return changed
