# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""A model without its randomness: for checks that compare what two ways of running it give."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]
from torch.overrides import TorchFunctionMode

_T = Tensor
Answer = Callable[[Any, Any, Any], Any]


def _as_it_was(func: Any, args: Any, kwargs: Any) -> Any:
    return args[0] if args else kwargs["input"]


def _undropped(place: int) -> Answer:
    """With a share of zero for the argument `dropout_p`, which stands at this place."""

    def answer(func: Any, args: Any, kwargs: Any) -> Any:
        if len(args) > place:
            return func(*args[:place], 0.0, *args[place + 1 :], **kwargs)
        return func(*args, **{**kwargs, "dropout_p": 0.0})

    return answer


def _filled(value: float) -> Answer:
    """What is drawn, but every number the same."""

    def answer(func: Any, args: Any, kwargs: Any) -> Any:
        with torch.no_grad(), torch.random.fork_rng():  # a model that draws nothing else is not random
            return func(*args, **kwargs).fill_(value)

    return answer


def _backwards(func: Any, args: Any, kwargs: Any) -> Any:
    """The permutation that keeps no place but the middle one, so that mixing by it is seen."""
    with torch.no_grad(), torch.random.fork_rng():
        found = func(*args, **kwargs)
        return found.copy_(torch.arange(len(found) - 1, -1, -1))


_ANSWERS: dict[Any, Answer] = {
    **dict.fromkeys(
        (
            *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
            *(torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_),
            *(torch.alpha_dropout, torch.alpha_dropout_),
            *(torch.feature_alpha_dropout, torch.feature_alpha_dropout_),
        ),
        _as_it_was,
    ),
    F.scaled_dot_product_attention: _undropped(4),
    F.multi_head_attention_forward: _undropped(10),
    **dict.fromkeys((torch.bernoulli, _T.bernoulli, _T.bernoulli_, _T.exponential_), _filled(1.0)),
    **dict.fromkeys((torch.rand, torch.rand_like, _T.uniform_), _filled(0.5)),
    **dict.fromkeys((torch.randn, torch.randn_like, torch.normal, _T.normal_), _filled(0.25)),
    **dict.fromkeys((torch.randint, torch.randint_like, _T.random_), _filled(0)),
    torch.randperm: _backwards,
}


class _Fixed(TorchFunctionMode):
    """Functions that draw give fixed numbers of their range, or of what is likely."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = _ANSWERS.get(func)
        if answer is None:
            return func(*args, **(kwargs or {}))
        return answer(func, args, kwargs or {})


@contextmanager
def quiet(model: nn.Module) -> Generator[None]:
    """Within, dropout is off and torch's functions draw nothing; the state of its generators is put back."""
    dropped = [layer for layer in model.modules() if isinstance(layer, _DropoutNd) and layer.training]
    shares: list[tuple[Any, float]] = [
        (layer, layer.dropout)
        for layer in model.modules()
        if isinstance(layer, nn.MultiheadAttention | nn.RNNBase)
    ]
    with torch.random.fork_rng(), _Fixed():
        for layer in dropped:
            layer.training = False
        for layer, _ in shares:
            layer.dropout = 0.0
        try:
            yield
        finally:
            for layer in dropped:
                layer.training = True
            for layer, share in shares:
                layer.dropout = share
