# SPDX-License-Identifier: Apache-2.0
"""From steerable networks to ordinary ones."""

from __future__ import annotations

import copy

from torch import nn

from confide.equivariant.fields import SteerableModule, SteerableSequential


def export(model: nn.Module) -> nn.Module:
    """The same map with ordinary convolutions and no basis, in evaluation mode; the model is not changed.

    Every steerable convolution becomes an `nn.Conv2d`, GroupNorm of permuted fields an `nn.GroupNorm`, a
    pointwise non-linearity its function; gates and norm poolings stay, for they are ordinary arithmetic.
    Parameters of the result are the expanded filters: train the steerable model, not the exported one.

    Args:
        model: Any module that holds steerable layers.
    """
    holder = nn.ModuleDict({"model": copy.deepcopy(model)})
    _replace(holder)
    return holder["model"].eval()


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, SteerableModule):
            setattr(module, name, child.export())
        elif isinstance(child, SteerableSequential):
            ordinary = nn.Sequential()
            for part_name, part in child.named_children():
                ordinary.add_module(part_name, part)
            _replace(ordinary)
            setattr(module, name, ordinary)
        else:
            _replace(child)
