# SPDX-License-Identifier: Apache-2.0
"""From an experiment's words to the objects that train: plan, clipping, optimizer, schedule, device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from confide.errors import BudgetExhaustedError, ConfigError, ModelError
from confide.experiments.config import (
    ClippingConfig,
    DataConfig,
    Experiment,
    OptimizerConfig,
    PrivacyConfig,
    StageConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from confide.data.catalog import DataSplits
    from confide.data.ingest import Progress
    from confide.mechanisms.clipping import Clipping
    from confide.privacy.plan import PrivacyPlan
    from confide.privacy.schemes import Sampling
    from confide.privacy.units import PrivacyUnit
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


def planned_steps(training: TrainingConfig, units: int) -> int:
    """Steps of a schedule over n units: given, or ⌈epochs·n/B⌉."""
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    return max(1, math.ceil(training.epochs * units / training.batch_size - 1e-9))


def hardened_numbers(experiment: Experiment, model: nn.Module) -> int:
    """How many integers a hardened step of this experiment releases; 0 for floating-point noise.

    Raises:
        ConfigError: If the number would change between steps.
    """
    from confide.training.integers import released_numbers

    privacy = experiment.privacy
    assert isinstance(privacy, PrivacyConfig)
    if not privacy.hardened:
        return 0
    if experiment.training.stages:
        raise ConfigError(
            "hardened steps and staged unfreezing do not go together",
            where="privacy.hardened",
            why="Its guarantee counts the numbers that every step releases.",
            remedy="Leave out one of them.",
        )
    return released_numbers(model, int(privacy.release_loss) + int(privacy.clipping.kind == "adaptive"))


def make_plan(experiment: Experiment, units: int, unit: PrivacyUnit, integers: int = 0) -> PrivacyPlan:
    """The plan of a private experiment on n units; its `steps` are the scheduled ones.

    Args:
        integers: Numbers that a hardened step releases, see `hardened_numbers`.

    Raises:
        ConfigError: If the batch is larger than the data.
        PlanError: If no mechanism can have these parameters.
    """
    from confide.privacy.plan import PrivacyPlan

    privacy, training = experiment.privacy, experiment.training
    assert isinstance(privacy, PrivacyConfig)
    if training.batch_size > units:
        raise ConfigError(
            f"a batch of {training.batch_size} is larger than the data set",
            where="training.batch_size",
            why=f"It has {units} units ({unit.value}s).",
            remedy=f"Choose at most {units}.",
        )
    sampling = _sampling(privacy.sampling, training.batch_size, units)
    steps = planned_steps(training, units)
    if privacy.noise_multiplier is None:
        assert privacy.epsilon is not None
        return PrivacyPlan.for_budget(
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            units=units,
            batch_size=training.batch_size,
            steps=steps,
            unit=unit,
            sampling=sampling,
            integers=integers,
        )
    return PrivacyPlan(
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=training.batch_size / units,
        steps=steps,
        delta=privacy.delta,
        units=units,
        unit=unit,
        sampling=sampling,
        integers=integers,
    )


def within_budget(plan: PrivacyPlan, epsilon: float | None) -> PrivacyPlan:
    """The plan, shortened to the steps that ε allows.

    Raises:
        BudgetExhaustedError: If not even one step fits.
    """
    if epsilon is None or plan.epsilon() <= epsilon:
        return plan
    low, high = 0, plan.steps  # ε(low) fits, ε(high) does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if plan.epsilon(steps=middle) <= epsilon else (low, middle)
    if low == 0:
        raise BudgetExhaustedError(
            f"one step spends ε = {plan.epsilon(steps=1):.4g}, more than ε = {epsilon:g}",
            where="privacy",
            remedy="Raise the noise multiplier or ε, or lower the batch size.",
        )
    return replace(plan, steps=low)


def _sampling(name: str, batch_size: int, units: int) -> Sampling:
    from confide.privacy import schemes

    match name:
        case "poisson":
            return schemes.PoissonSampling(batch_size / units)
        case "fixed-size":
            return schemes.FixedSizeSampling(batch_size, units)
        case "full-batch":
            return schemes.FullBatch()
        case _:
            return schemes.sampling_from_dict({"name": name, "bins": max(1, round(units / batch_size))})


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

    loss = _full_loss(config, splits)
    return shortened(loss) if config.precision == "bfloat16" else loss


def _full_loss(config: TrainingConfig, splits: DataSplits) -> Loss:
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
