# SPDX-License-Identifier: Apache-2.0
"""One run, from prepared objects to its record.

Order matters and is fixed here: the data set is registered and the whole plan reserved in the ledger before the first
step; every step is charged before its noise is drawn; the record on disk never claims less than what was charged.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import torch

from confide.data.augment import Augmentation
from confide.data.catalog import DataSplits, load
from confide.errors import BudgetExhaustedError, CheckpointError, ModelError
from confide.experiments import history
from confide.experiments.config import Experiment, PrivacyConfig
from confide.experiments.describe import describe_cost, describe_data, describe_model, versions
from confide.experiments.folder import begin
from confide.experiments.prepare import (
    choose_device,
    make_clipping,
    make_optimizer,
    make_plan,
    make_schedule,
    planned_steps,
    within_budget,
)
from confide.experiments.record import RunRecord, Spent, Status
from confide.experiments.run import Listener
from confide.experiments.scores import score_test, score_validation
from confide.mechanisms.keys import RunKey
from confide.models.registry import build
from confide.privacy.ledger import Ledger, Reservation
from confide.privacy.plan import PrivacyPlan
from confide.surgery.inspect import inspect
from confide.training import checkpoint
from confide.training.average import WeightAverage
from confide.training.losses import LOSSES
from confide.training.mechanism import with_loss_release
from confide.training.plain import PlainLoop
from confide.training.spent import SpentCurve
from confide.training.step import Work, private_steps
from confide.training.trainer import AnyStep, StopRequest, Trainer

_RELEASED_EVERY_SECONDS = 60.0


@dataclass
class Session:
    """A prepared run. Use it as a context manager: leaving it closes the ledger's reservation."""

    experiment: Experiment
    splits: DataSplits
    trainer: Trainer
    total: int
    epoch_steps: float
    command: list[str]
    plan: PrivacyPlan | None = None
    scheduled: int = 0
    reservation: Reservation | None = None
    first_step: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    earlier_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    units: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _spent: SpentCurve | None = None
    _clipping: Any = None

    # -- opening ------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, experiment: Experiment, *, resume: bool, command: Sequence[str]) -> Self:
        """Load the data, build the model, reserve the budget. Nothing is written if anything given is wrong.

        Raises:
            InputError: If the experiment cannot be run.
            BudgetExhaustedError: If the ledger's limit refuses the plan.
        """
        if experiment.threads is not None:
            torch.set_num_threads(experiment.threads)
        device = choose_device(experiment.device)
        splits = load(experiment.data.name, unit=experiment.data.unit, size=experiment.data.size)
        privacy = experiment.privacy if isinstance(experiment.privacy, PrivacyConfig) else None
        units = (privacy.units if privacy else None) or splits.train.n_units
        model = _build_model(experiment, splits).to(device)
        plan, scheduled = None, planned_steps(experiment.training, units)
        if privacy:
            whole = make_plan(experiment, units, splits.train.unit)
            plan = within_budget(whole, privacy.epsilon)
            plan = with_loss_release(plan) if privacy.release_loss else plan
        optimizer = make_optimizer(model, experiment.training.optimizer)
        trainer = Trainer(
            model,
            optimizer,
            make_schedule(optimizer, experiment.training, scheduled),
            WeightAverage(model, experiment.training.ema) if experiment.training.ema else None,
        )
        session = cls(
            experiment=experiment,
            splits=splits,
            trainer=trainer,
            total=plan.steps if plan else scheduled,
            epoch_steps=units / experiment.training.batch_size,
            command=list(command),
            plan=plan,
            scheduled=scheduled,
            units=units,
        )
        if privacy:
            names = [name for name, p in model.named_parameters() if p.requires_grad]
            session._clipping = make_clipping(privacy.clipping, names)
            assert plan is not None
            session._spent = SpentCurve(plan)
        if resume:
            session._restore()
        session._reserve(privacy, resume)
        begin(experiment)
        return session

    def _reserve(self, privacy: PrivacyConfig | None, resume: bool) -> None:
        """Reserve the plan, or take up the reservation of a run that stopped; the ledger outranks the checkpoint."""
        if privacy is None or not privacy.ledger:
            return
        assert self.plan is not None
        ledger = self._stack.enter_context(Ledger.open())
        ledger.register(self.splits.info.name, self.splits.fingerprint, self.splits.train.unit)
        run = str(self.experiment.folder.resolve())
        if not resume:
            self.reservation = ledger.reserve(self.splits.info.name, self.plan, run=run)
            return
        self.reservation = ledger.resume(run, self.plan)
        lost = self.reservation.charged - self.first_step
        if lost > 0:
            self.first_step = self.reservation.charged
            self.warnings.append(
                f"{lost} steps were charged before the run stopped and are not in its checkpoint; "
                "they count as spent and are not repeated"
            )
