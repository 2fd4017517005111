# SPDX-License-Identifier: Apache-2.0
"""From an experiment's words to its privacy plan."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from confide.errors import BudgetExhaustedError, ConfigError
from confide.experiments.config import Experiment
from confide.experiments.sections import PrivacyConfig, TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from confide.privacy.plan import PrivacyPlan
    from confide.privacy.schemes import Sampling
    from confide.privacy.units import PrivacyUnit
    from confide.training.physical import Work

_SHORTEST = 32  # rows of a physical batch that is filled up: with fewer, calls cost more than they compute


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
        ConfigError: If the batch is larger than the data, or the model's precision breaks the claim.
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


def make_work(experiment: Experiment) -> Work:
    """How the steps of an experiment are computed.

    In bfloat16 a private step fills its physical batches up to one length: its products depend on how many
    rows are computed together, so a unit that joins would move what others add. Short ones, for up to a whole
    one is wasted; hardened steps take one unit at a time anyway.
    """
    from confide.training.physical import Work

    training, privacy = experiment.training, experiment.privacy
    rows, views = training.physical_batch_size, training.augmentation.views
    short = training.precision != "float32"
    fill = short and isinstance(privacy, PrivacyConfig) and not privacy.hardened
    if fill:
        rows = min(rows, max(_SHORTEST, training.batch_size * views // 8))
        rows = max(rows - rows % views, views)
    return Work(rows, training.method, experiment.data.max_rows_per_unit, fill=fill)


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
