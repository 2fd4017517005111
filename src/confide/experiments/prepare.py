# SPDX-License-Identifier: Apache-2.0
"""From an experiment's words to the objects that train: plan, clipping, optimizer, schedule, device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from confide.errors import ConfigError, ModelError
from confide.experiments.config import Experiment
from confide.experiments.sections import (
    ClippingConfig,
    DataConfig,
    OptimizerConfig,
    StageConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from confide.data.catalog import DataSplits
    from confide.data.ingest import Progress
    from confide.mechanisms.clipping import Clipping
    from confide.training.losses import Loss
    from confide.training.trainer import Schedule


def load_data(config: DataConfig, progress: Progress | None = None) -> DataSplits:
    """The data set of an experiment.

    Args:
        progress: Called with (images done, images in all) while files are decoded.

    Raises:
        DataError: If it cannot be loaded.
    """
    from confide.data.catalog import load

    return load(config.name, **config.reading(), progress=progress)


def build_model(experiment: Experiment, splits: DataSplits) -> nn.Module:
    """The model of an experiment, with its public initial weights.

    Raises:
        ConfigError: If there is no such model or option, or the initial weights cannot be read.
        ModelError: If the model cannot be trained privately.
    """
    import torch

    from confide.models.registry import build
    from confide.surgery.inspect import examine

    if experiment.seed is not None:
        torch.manual_seed(experiment.seed)
    model = build(
        experiment.model.name,
        in_channels=splits.info.channels,
        classes=len(splits.info.classes),
        **experiment.model.options,
    )
    if experiment.training.initial_weights is not None:
        _load_weights(model, Path(experiment.training.initial_weights))
    if experiment.privacy != "none":
        shape = splits.train.images.shape[1:]
        found = examine(model, torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
        if found.blocked:
            worst = found.findings[0]
            raise ModelError(str(worst), where=f"model {experiment.model.name}")
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    """Start from public weights: all that fit by name and shape; the rest stay as initialised."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from confide.models import load_published

    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            "the initial weights cannot be read",
            where=str(path),
            why=str(error),
            remedy="Give a safetensors file.",
        ) from None
    try:
        load_published(model, given)
    except ModelError as error:
        raise ConfigError(
            "none of the initial weights fits the model", where=str(path), why=str(error)
        ) from None


def make_clipping(config: ClippingConfig, names: list[str]) -> Clipping:
    """The clipping of an experiment for a model with these trainable parameters."""
    from confide.mechanisms import clipping

    match config.kind:
        case "flat":
            return clipping.FlatClipping(config.bound)
        case "per-layer":
            return clipping.PerLayerClipping.even(config.bound, names)
        case "automatic":
            return clipping.AutomaticClipping(config.bound)
        case "adaptive":
            return clipping.AdaptiveClipping(config.bound, quantile=config.quantile)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters."""
    import torch

    # All of them, also those that a later stage thaws: one without a gradient is left alone.
    parameters = list(model.parameters())
    match config.name:
        case "sgd":
            return torch.optim.SGD(
                parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            )
        case "adam":
            return torch.optim.Adam(parameters, config.lr, weight_decay=config.weight_decay)
        case "nadam":
            return torch.optim.NAdam(parameters, config.lr, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)


def make_loss(config: TrainingConfig, splits: DataSplits) -> Loss:
    """The loss of an experiment, by default that of the task, in the precision asked for.

    Raises:
        ConfigError: If the public class weights do not fit the classes.
    """
    from confide.training.losses import shortened

    loss = full_loss(config, splits)
    return shortened(loss) if config.precision == "bfloat16" else loss


def full_loss(config: TrainingConfig, splits: DataSplits) -> Loss:
    """`make_loss` in the model's own precision."""
    from confide.training.losses import LOSSES, weighted_cross_entropy

    name = config.loss or ("cross-entropy" if splits.info.task == "classification" else "dice")
    if config.class_weights is None:
        return LOSSES[name]
    if name != "cross-entropy" or len(config.class_weights) != len(splits.info.classes):
        raise ConfigError(
            f"{len(config.class_weights)} class weights do not fit the {len(splits.info.classes)} classes"
            if name == "cross-entropy"
            else f"the loss {name!r} takes no class weights",
            where="training.class_weights",
            remedy=f"Give one for each of: {', '.join(splits.info.classes)}.",
        )
    return weighted_cross_entropy(config.class_weights)


def check_stages(model: nn.Module, stages: Sequence[StageConfig]) -> None:
    """Refuse a stage whose prefixes name no parameter.

    Raises:
        ConfigError: Names the prefix, and what there is.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in (prefix for stage in stages for prefix in stage.train):
        if prefix != "*" and not any(name.startswith(prefix) for name in names):
            tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ConfigError(
                f"no parameter begins with {prefix!r}", where="training.stages", remedy=f"There are: {tops}."
            )


def set_stage(model: nn.Module, stages: Sequence[StageConfig], epoch: float) -> None:
    """Make exactly the parameters of the stage at an epoch trainable; without stages nothing changes."""
    begun = [stage for stage in stages if stage.epoch <= epoch + 1e-9]
    if not begun:
        return
    prefixes = begun[-1].train
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("*" in prefixes or name.startswith(prefixes))


def make_schedule(optimizer: torch.optim.Optimizer, training: TrainingConfig, steps: int) -> Schedule:
    """The learning rates of an experiment of so many steps."""
    from confide.training.trainer import Schedule

    rising = round(training.warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if training.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
        return 1.0

    return Schedule(optimizer, factor)


def choose_device(name: str) -> torch.device:
    """The named device; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: If the device is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"there is no device {name!r}",
            where="device",
            why=str(error).splitlines()[0],
            remedy="Use auto or cpu.",
        ) from None
    return device
