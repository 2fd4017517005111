# SPDX-License-Identifier: Apache-2.0
"""Surgical procedures: what may stand in for a normalisation that mixes or remembers samples.

A procedure takes one layer and returns another for its place, with the weights that still mean something.

| deepee's name | here |
|---|---|
| `ModelSurgeon(converter).operate(model)` | `replaced(copy of model, procedure)`, or `repair(model, norm)` |
| `BN_to_GN` | `group_norm`, with a group count that fits any number of channels |
| `BN_to_IN` | `instance_norm` |
| `BN_to_LN` | `layer_norm`, over channels and space, for any image size |
| `BN_to_BN_nostats` | `own_statistics`: what batch normalisation computes on a batch of one |
| `IN_to_IN_nostats` | `without_running_statistics` |
| `ModelSnooper.snoop` | `confide.inspect` |

None of them discards the affine weights, and `channel_scale` is new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from confide.errors import ModelError
from confide.surgery.layers import ChannelScale, LazyChannelScale, LazyGroupNorm, fitting_groups

Procedure = Callable[[nn.Module], nn.Module]
BatchNormalisation = _BatchNorm
InstanceNormalisation = _InstanceNorm
MOST_GROUPS = 32


def replaced(
    model: nn.Module, procedure: Procedure, kinds: type | tuple[type, ...] = _BatchNorm
) -> nn.Module:
    """Put `procedure(layer)` in the place of every layer of these kinds; works on the model it is given.

    A layer that stands in several places gets one replacement, in all of them.

    Returns:
        The model, or the replacement where the model itself is such a layer.

    Raises:
        ModelError: If a procedure refuses a layer; names it.
    """
    done: dict[int, nn.Module] = {}

    def replacement(name: str, layer: nn.Module) -> nn.Module:
        if id(layer) not in done:
            try:
                new = procedure(layer)
            except ModelError as error:
                raise ModelError(
                    error.what, where=f"layer {name!r}", why=error.why, remedy=error.remedy
                ) from error
            done[id(layer)] = new.train(layer.training)
        return done[id(layer)]

    if isinstance(model, kinds):
        return replacement("", model)
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent._modules.items()):
            if child is not None and isinstance(child, kinds):
                name = f"{parent_name}.{child_name}" if parent_name else child_name
                parent._modules[child_name] = replacement(name, child)
    return model


def group_norm(layer: nn.Module, groups: int | None = None) -> nn.Module:
    """GroupNorm. Wu and He (2018), arXiv:1803.08494.

    Args:
        layer: Any batch normalisation.
        groups: Number of groups; must divide the channels. Default: at most 32, lowered to a
            divisor of the channels that leaves at least two channels a group, eight where the input may be a
            vector (B, C): with one value a group the output would be constant.

    Raises:
        ModelError: If `groups` does not divide the channels.
    """
    layer = cast(_BatchNorm, layer)
    channels, least = layer.num_features, _least_channels(layer)
    if isinstance(layer, _LazyNormBase):
        lazy = LazyGroupNorm(groups, least, layer.eps, affine=layer.affine)
        return _with_affine(layer, lazy)
    if groups is None:
        if isinstance(layer, nn.BatchNorm1d) and channels < 4:
            # A vector of so few values, normalised by itself, holds little more than their order.
            return channel_scale(layer)
        groups = fitting_groups(channels, MOST_GROUPS, least)
    if groups < 1 or channels % groups:
        raise ModelError(
            f"{groups} groups do not divide {channels} channels",
            remedy="Leave groups=None to have a fitting count chosen for each layer.",
        )
    return _with_affine(layer, nn.GroupNorm(groups, channels, layer.eps, affine=layer.affine))


def layer_norm(layer: nn.Module) -> nn.Module:
    """One mean and variance a sample, over channels and space. Ba, Kiros, Hinton (2016), arXiv:1607.06450."""
    return group_norm(layer, 1)


def instance_norm(layer: nn.Module) -> nn.Module:
    """One mean and variance per sample and channel. Ulyanov, Vedaldi, Lempitsky (2016), arXiv:1607.08022.

    On vectors (B, C) no such thing exists, and the layer raises there.
    """
    layer = cast(_BatchNorm, layer)
    if isinstance(layer, _LazyNormBase):
        return _with_affine(layer, LazyGroupNorm(None, 1, layer.eps, affine=layer.affine, most=None))
    kinds = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
    space = next((s for s, kind in _BATCH_KINDS.items() if isinstance(layer, kind)), None)
    if space is None:
        # SyncBatchNorm takes any number of dimensions; so does GroupNorm with a channel a group.
        return _with_affine(
            layer, nn.GroupNorm(layer.num_features, layer.num_features, layer.eps, affine=layer.affine)
        )
    return _with_affine(layer, kinds[space](layer.num_features, layer.eps, affine=layer.affine))


def own_statistics(layer: nn.Module) -> nn.Module:
    """What batch normalisation computes on a batch of one, without running statistics: `instance_norm`."""
    return instance_norm(layer)


def channel_scale(layer: nn.Module) -> nn.Module:
    """The per-channel affine map that the layer computes in evaluation mode.

    The running statistics are folded into it: w' = w/sqrt(var + eps), b' = b - mean·w'. In evaluation mode
    the outputs stay the same. The statistics must come from public data: no noise protected them.
    """
    layer = cast(_BatchNorm, layer)
    if isinstance(layer, _LazyNormBase):
        lazy = LazyChannelScale(affine=layer.affine)
        return _with_affine(layer, lazy) if layer.affine else lazy
    reference = next((t for t in (layer.weight, layer.bias, layer.running_mean) if t is not None), None)
    new = (
        ChannelScale(layer.num_features).to(reference)
        if reference is not None
        else ChannelScale(layer.num_features)
    )
    with torch.no_grad():
        if layer.weight is not None:
            new.weight.copy_(layer.weight)
        if layer.bias is not None:
            new.bias.copy_(layer.bias)
        if layer.running_mean is not None and layer.running_var is not None:
            new.weight.div_((layer.running_var + layer.eps).sqrt())
            new.bias.sub_(layer.running_mean * new.weight)
    # Without a trainable weight before there is none after: nothing was learnt here, nothing shall be.
    new.weight.requires_grad_(layer.weight is not None and layer.weight.requires_grad)
    new.bias.requires_grad_(layer.bias is not None and layer.bias.requires_grad)
    return new


def without_running_statistics(layer: nn.Module) -> nn.Module:
    """An instance normalisation, in place, that uses each image's own statistics always."""
    layer = cast(_InstanceNorm, layer)
    layer.track_running_stats = False
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        layer.register_buffer(name, None)
    return layer


def without_in_place(model: nn.Module) -> nn.Module:
    """Let no activation or dropout overwrite its input; works on the model it is given."""
    for layer in model.modules():
        if getattr(layer, "inplace", False) is True:
            vars(layer)["inplace"] = False
    return model


_BATCH_KINDS: dict[int, type] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _least_channels(layer: nn.Module) -> int:
    """Channels a group at least: more where no spatial dimension may add values to a group."""
    kind = cast(type, getattr(layer, "cls_to_become", None) or type(layer))
    return 2 if issubclass(kind, nn.BatchNorm2d | nn.BatchNorm3d) else 8


def _with_affine(old: _BatchNorm, new: nn.Module) -> nn.Module:
    """Hand the old layer's weight and bias on: the same parameters, so that ties and flags stay."""
    parameters = vars(new)["_parameters"]
    for name in ("weight", "bias"):
        value = cast("Tensor | None", getattr(old, name))
        if value is not None and (is_parametrized(old, name) or not isinstance(value, nn.Parameter)):
            value = nn.Parameter(value.detach().clone())
        parameters[name] = value
    return new
