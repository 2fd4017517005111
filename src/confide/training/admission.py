# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false
"""What a private run refuses before its first step, because the claim would not hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from confide.data.imageset import ImageSet
from confide.errors import InputError, ModelError
from confide.gradients.walking import trainable
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import PrivacyUnit


def check_model(model: nn.Module) -> None:
    """Refuse a model without trainable parameters, or with parameters of half precision.

    A sum in bfloat16 rounds by up to 0.4 %: more than the bound that the noise is scaled to allows.

    Raises:
        ModelError: With the parameter's name.
    """
    for name, parameter in trainable(model).items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"parameter {name!r} is {parameter.dtype}",
                why="Sums in half precision would exceed their clip norm by rounding.",
                remedy="Keep the parameters in float32; compute in half precision with torch.autocast"
                " inside the loss.",
            )


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that would update something else than the model's parameters.

    Raises:
        ModelError: If it holds a parameter that is not the model's.
    """
    own = {id(parameter) for parameter in model.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in own for parameter in held):
        raise ModelError(
            "the optimizer holds parameters that are not the model's",
            why="Their gradients would not pass through the private mechanism.",
            remedy="Build the optimizer from model.parameters() of the very model that is trained.",
        )


def check_unit(plan: PrivacyPlan, dataset: Any, *, grouped: bool) -> None:
    """Refuse a claim per patient on data whose rows are not grouped by patient.

    Args:
        plan: Its unit is claimed.
        dataset: An `ImageSet` says what its units are.
        grouped: Whether unit numbers were given apart.

    Raises:
        InputError: If the plan's unit is not the data's.
    """
    if isinstance(dataset, ImageSet):
        if dataset.unit is not plan.unit:
            raise InputError(
                f"the plan is per {plan.unit.value}, the data set's units are {dataset.unit.value}s",
                why="The claim would name somebody whom the clipping does not protect.",
                remedy=f"Load the data set with unit={plan.unit.value!r}, or plan per {dataset.unit.value}.",
            )
        return
    brings_units = grouped or not isinstance(dataset, (torch.utils.data.Dataset, list, tuple))
    if plan.unit is not PrivacyUnit.IMAGE and not brings_units:
        raise InputError(
            f"the plan is per {plan.unit.value}, but no row says whose it is",
            why="Each row would count as a person of its own.",
            remedy="Give `units`: one unit number for each row.",
        )
