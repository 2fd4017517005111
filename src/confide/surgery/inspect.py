# SPDX-License-Identifier: Apache-2.0
"""What keeps a model from being trained privately, and the remedy.

Two sources: the types of layers whose trouble is known, and the behaviour of a copy of the model, from which
those layers were already taken, on a small batch. The second finds what no list of types holds: a layer
of one's own that centres the batch, or keeps an average of what it saw.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from confide.errors import InputError, ModelError
from confide.surgery.findings import Finding, Inspection, Severity, ordered
from confide.surgery.inputs import Call, from_example, guessed
from confide.surgery.probe import Behaviour, observe, practice_copy, same_randomness, wake_zero_weights
from confide.surgery.replace import (
    BatchNormalisation,
    InstanceNormalisation,
    group_norm,
    replaced,
    without_in_place,
    without_running_statistics,
)

log = logging.getLogger(__name__)


def inspect(model: nn.Module, example: Any = None) -> list[Finding]:
    """Find what blocks or weakens differentially private training; empty when nothing does.

    Args:
        model: Any model; it is not changed, and its mode does not matter except for single frozen layers.
        example: A batch of its inputs (B, ...), a tuple of positional inputs or a mapping of keyword inputs.
            Without one, an input is guessed from the first layers; where no guess fits, only the types of the
            layers are looked at, and a warning is logged.

    Returns:
        Findings, worst first.

    Raises:
        ModelError: If `model` is no `torch.nn.Module`.
        InputError: If the model does not accept the example.

    >>> inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)))
    []
    >>> print(inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[0].layer)
    1
    """
    found = examine(model, example)
    if found.input_shape is None:
        log.warning(
            "inspect: only the types of the layers were looked at; give an example to test their behaviour"
        )
    return list(found.findings)


def examine(model: nn.Module, example: Any = None) -> Inspection:
    """As `inspect`, and says which batch the model was run on."""
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{type(model).__name__} is no torch.nn.Module",
            remedy="Give the model itself, not its name or weights.",
        )
    findings = list(_by_type(model))
    practice = replaced(practice_copy(model), group_norm)
    practice = without_in_place(replaced(practice, without_running_statistics, InstanceNormalisation))
    call = _accepted(practice, example)
    if call is not None:
        wake_zero_weights(practice)
        findings += _by_behaviour(practice, observe(practice, call))
    return Inspection(ordered(findings), None if call is None else call.shape)


def _by_type(model: nn.Module) -> Iterator[Finding]:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield Finding(
            Severity.MUST,
            "",
            type(model).__name__,
            "has no trainable parameter",
            "Call requires_grad_(True) on what shall be trained.",
        )
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if isinstance(layer, BatchNormalisation):
            yield _batch_norm(name, kind, frozen=model.training and not layer.training)
        elif isinstance(layer, InstanceNormalisation) and layer.track_running_stats:
            yield Finding(
                Severity.MUST,
                name,
                kind,
                "keeps running statistics of the patients' images, which no noise protects",
                "confide.repair(model) switches them off and keeps the weights.",
            )
        if getattr(layer, "inplace", False) is True:
            yield Finding(
                Severity.SHOULD,
                name,
                kind,
                "overwrites its input, which per-sample gradients may still need",
                "confide.repair(model) sets inplace=False.",
            )


def _batch_norm(name: str, kind: str, *, frozen: bool) -> Finding:
    if frozen:
        return Finding(
            Severity.SHOULD,
            name,
            kind,
            "is frozen in evaluation mode; one call of model.train() makes it mix the samples of a batch",
            "confide.repair(model, fold_frozen=True) makes it the per-channel map that it computes now.",
        )
    return Finding(
        Severity.MUST,
        name,
        kind,
        "mixes the samples of a batch and keeps their running statistics, so no per-sample gradient exists",
        "confide.repair(model) replaces it by GroupNorm and keeps its weights.",
    )


def _accepted(model: nn.Module, example: Any) -> Call | None:
    """The first call that the model accepts; also gives lazy layers their shapes."""
    calls = guessed(model) if example is None else iter(from_example(example, model))
    reason: Exception | None = None
    for call in calls:
        try:
            with torch.no_grad(), same_randomness(model):
                call.run(model)
        except Exception as error:  # any model may raise anything at a batch it was not made for
            reason = reason or error
        else:
            return call
    if example is not None:
        raise InputError(
            "the model does not accept the example",
            where="example",
            why=f"It raised {type(reason).__name__}: {reason}",
            remedy="Give its input (B, ...), a tuple of positional inputs or a mapping of keyword inputs.",
        ) from reason
    return None


_BEHAVIOUR = {
    "mixing": (
        Severity.MUST,
        "mixes the samples of a batch: changing one sample changes the values of another",
        "Replace it by a layer that treats each sample alone.",
    ),
    "changed_buffers": (
        Severity.MUST,
        "writes what it saw into its buffer {}, which no noise protects and every checkpoint holds",
        "Remove the buffer or stop updating it in training.",
    ),
    "counting_buffers": (
        Severity.NOTE,
        "changes its buffer {} in every training pass, though not by the data",
        "Nothing to do, unless the change is meant to depend on the data.",
    ),
    "erasing": (
        Severity.SHOULD,
        "erases its input: a group holds one value of a sample, and normalising one value gives a constant",
        "Use fewer groups or a larger input.",
    ),
}


def _by_behaviour(model: nn.Module, behaviour: Behaviour) -> Iterator[Finding]:
    kinds = {name: type(layer).__name__ for name, layer in model.named_modules()}
    for key in ("mixing", "erasing"):
        severity, reason, remedy = _BEHAVIOUR[key]
        for name in getattr(behaviour, key):
            yield Finding(severity, name, kinds[name], reason, remedy)
    for key in ("changed_buffers", "counting_buffers"):
        severity, reason, remedy = _BEHAVIOUR[key]
        for buffer in getattr(behaviour, key):
            owner, _, short = buffer.rpartition(".")
            yield Finding(severity, owner, kinds[owner], reason.format(repr(short)), remedy)
    whole = kinds[""]
    if behaviour.misaligned and not behaviour.mixing:
        yield Finding(
            Severity.MUST,
            "",
            whole,
            "returns in row i what it computed from another sample",
            "Keep the order of the samples.",
        )
    if behaviour.remembering and not behaviour.changed_buffers:
        yield Finding(
            Severity.MUST,
            "",
            whole,
            "remembers earlier batches in a plain attribute: they change later outputs",
            "Keep no state between batches.",
        )
    if behaviour.overwrites_input:
        yield Finding(
            Severity.SHOULD,
            "",
            whole,
            "overwrites the batch that it was given",
            "Work on a copy of the input.",
        )
