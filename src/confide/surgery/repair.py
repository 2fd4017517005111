# SPDX-License-Identifier: Apache-2.0
"""A new model that passes inspection, with every weight that still means something."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from confide.errors import ModelError, UnsupportedLayerError
from confide.surgery.findings import Severity
from confide.surgery.inspect import examine
from confide.surgery.layers import deep_copy
from confide.surgery.replace import (
    BatchNormalisation,
    InstanceNormalisation,
    Procedure,
    channel_scale,
    group_norm,
    instance_norm,
    layer_norm,
    replaced,
    without_in_place,
    without_running_statistics,
)

_NORMS: dict[str, Procedure] = {
    "group": group_norm,
    "instance": instance_norm,
    "layer": layer_norm,
    "scale": channel_scale,
}


def repair(
    model: nn.Module,
    norm: str = "group",
    groups: int | None = None,
    *,
    fold_frozen: bool = False,
    example: Any = None,
) -> nn.Module:
    """Replace what cannot be trained privately. The given model stays as it is.

    Batch normalisation of every kind (one to three dimensions, synchronised, lazy, frozen, and subclasses) is
    replaced; running statistics of instance normalisation and in-place activations are switched off. Weights,
    device, dtype, mode and requires_grad are kept, and a layer that stands in two places still does.

    Args:
        model: Any model.
        norm: What takes the place of batch normalisation: "group", "instance", "layer", or "scale": the
            per-channel map that the layer computes in evaluation mode.
        groups: Number of groups for norm="group"; default: chosen for each layer.
        fold_frozen: Treat layers in evaluation mode inside a model in training mode, or whose weights are all
            frozen, as by norm="scale", so that a frozen backbone keeps computing what it did.
        example: A batch for the final inspection, as for `inspect`.

    Raises:
        ModelError: If an argument has no meaning for this model.
        UnsupportedLayerError: If something remains that must change and that no procedure here can mend.

    >>> repair(nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48)))[1]
    GroupNorm(24, 48, eps=1e-05, affine=True, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"{type(model).__name__} is no torch.nn.Module", remedy="Give the model itself.")
    procedure = _procedure(norm, groups)
    new = deep_copy(model)
    if fold_frozen:
        training = new.training
        frozen_or_not = procedure
        procedure = lambda layer: channel_scale(layer) if _frozen(layer, training) else frozen_or_not(layer)  # noqa: E731
    new = replaced(new, procedure, BatchNormalisation)
    new = replaced(new, without_running_statistics, InstanceNormalisation)
    new = without_in_place(new)
    _check(new, example)
    return new


def _procedure(norm: str, groups: int | None) -> Procedure:
    if norm not in _NORMS:
        raise ModelError(f"there is no normalisation {norm!r}", remedy=f"Choose one of: {', '.join(_NORMS)}.")
    if groups is None:
        return _NORMS[norm]
    if norm != "group":
        raise ModelError(
            f"groups mean nothing to norm={norm!r}", remedy="Leave groups out, or choose norm='group'."
        )
    return partial(group_norm, groups=groups)


def _frozen(layer: nn.Module, training: bool) -> bool:
    parameters = list(layer.parameters(recurse=False))
    return (training and not layer.training) or (
        bool(parameters) and not any(p.requires_grad for p in parameters)
    )


def _check(model: nn.Module, example: Any) -> None:
    left = [finding for finding in examine(model, example).findings if finding.severity is Severity.MUST]
    left = [finding for finding in left if "no trainable parameter" not in finding.reason]
    if left:
        raise UnsupportedLayerError(
            f"cannot repair this model: {left[0]}",
            why=""
            if len(left) == 1
            else f"{len(left) - 1} more findings: {', '.join(repr(f.layer) for f in left[1:])}",
        )
