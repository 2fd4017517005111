# SPDX-License-Identifier: Apache-2.0
"""Rules: how an operation on parameters is run so that per-unit gradients can be had.

Operations of torch itself have rules here, by function. A package that defines a layer needs none if the
layer computes its weights from its parameters by torch functions and applies them by an operation that has
a rule: a convolution with normalised weights is recorded at the filter it applies, and its parameters'
gradients follow by one batched vector-Jacobian product. A layer that does something else registers a rule
of its own:

```python
@rule(MyLayer)
def my_layer(layer, inputs, grad_output):
    '''inputs: the layer's positional arguments, rows in front; grad_output: (B, ...).'''
    return {"weight": per_sample_gradient_of_weight}  # (B, *shape)
```

A layer whose backward pass is worth writing by hand registers a `forward_rule`, which runs the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from confide.gradients.recorder import OpRule

LayerRule = Callable[[nn.Module, tuple[Any, ...], Tensor], dict[str, Tensor]]
OPS: dict[Any, OpRule] = {}
LAYERS: dict[type[nn.Module], LayerRule] = {}
ForwardRule = Callable[..., Any]
FORWARDS: dict[type[nn.Module], ForwardRule] = {}
_R = TypeVar("_R", bound=Callable[..., Any])


def operation(*functions: Any) -> Callable[[OpRule], OpRule]:
    """Register the rule of torch functions."""

    def register(handler: OpRule) -> OpRule:
        for function in functions:
            OPS[function] = handler
        return handler

    return register


def rule(layer: type[nn.Module]) -> Callable[[_R], _R]:
    """Register a rule for every instance of exactly this layer class: see the module's docstring.

    The layer's `forward` is called as it is; the gradient of its inputs is taken by autograd.
    """

    def register(handler: _R) -> _R:
        LAYERS[layer] = handler
        return handler

    return register


def forward_rule(layer: type[nn.Module]) -> Callable[[_R], _R]:
    """Register what runs instead of the `forward` of every instance of exactly this layer class.

    The handler gets (recorder, layer, *arguments) and returns the output, or NotImplemented to have the
    layer's own `forward` seen as usual. It records per-unit gradients of the layer's parameters during the
    backward pass, as the rules of torch's own operations do.
    """

    def register(handler: _R) -> _R:
        FORWARDS[layer] = handler
        return handler

    return register


# Importing them registers their rules; they import `operation` from here.
from confide.gradients.rules import attention, conv, elementwise, embedding, linear, norm, pooling  # noqa: E402

__all__ = [
    "FORWARDS",
    "LAYERS",
    "OPS",
    "ForwardRule",
    "LayerRule",
    "attention",
    "conv",
    "elementwise",
    "embedding",
    "forward_rule",
    "linear",
    "norm",
    "operation",
    "pooling",
    "rule",
]
