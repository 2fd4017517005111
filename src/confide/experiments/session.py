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
from confide.experiments.config import Experiment, PrivacyConfig
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
from confide.experiments.record import RunRecord, Status
from confide.experiments.run import Listener
from confide.mechanisms.keys import RunKey
from confide.privacy.ledger import Ledger, Reservation
from confide.privacy.plan import PrivacyPlan
from confide.training.average import WeightAverage
from confide.training.losses import LOSSES
from confide.training.mechanism import with_releases
from confide.training.plain import PlainLoop
from confide.training.spent import SpentCurve
from confide.training.step import Work, private_steps
from confide.training.trainer import AnyStep, StopRequest, Trainer


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
            scheduled = whole.steps
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
            assert plan is not None
            names = [name for name, p in model.named_parameters() if p.requires_grad]
            session._clipping = make_clipping(privacy.clipping, names)
            session.plan = with_releases(plan, session._clipping, loss=privacy.release_loss)
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

    # -- training -----------------------------------------------------------------------------------------------

    def train(self, listener: Listener) -> RunRecord:
        """Take the remaining steps, score the model, and write the record."""
        began = time.perf_counter()
        listener.started(self)
        status: Status = "failed"
        self._record("running", began)
        done = self.first_step
        try:
            with StopRequest() as stop:
                outcome = self.trainer.run(
                    self._steps(), lambda step: self._on_step(step, listener, began), stop
                )
            done = self._done
            short = self.plan is not None and self.plan.steps < self.scheduled
            status = "interrupted" if outcome == "interrupted" else "exhausted" if short else "finished"
            self._checkpoint()
            if self.reservation is not None and status != "interrupted":
                self.reservation.close(done)
        except BaseException:
            self._record(status, began)
            raise
        record = self._record(status, began)
        if status == "interrupted":
            return record
        return self._finish(record)

    def _steps(self) -> Iterator[AnyStep]:
        training, privacy = self.experiment.training, self.experiment.privacy
        views = training.augmentation.views
        augmentation = (
            Augmentation.of(training.augmentation.operations) if training.augmentation.operations else None
        )
        loss = LOSSES[
            training.loss or ("cross-entropy" if self.splits.info.task == "classification" else "dice")
        ]
        work = Work(training.physical_batch_size, training.method, self.experiment.data.max_rows_per_unit)
        if self.plan is None:
            seed = self.experiment.seed if self.experiment.seed is not None else secrets.randbits(32)
            loop = PlainLoop(
                self.trainer.model,
                self.splits.train,
                loss,
                training.batch_size,
                self.total,
                seed,
                views,
                augmentation,
                work,
            )
            return loop.run(self.trainer.optimizer, self.first_step)
        assert isinstance(privacy, PrivacyConfig)
        seed = self.experiment.seed
        return private_steps(
            self.trainer.model,
            self.trainer.optimizer,
            self.splits.train,
            self.plan,
            loss=loss,
            clipping=self._clipping,
            views=views,
            augmentation=augmentation,
            release_loss=privacy.release_loss,
            work=work,
            key=RunKey.from_os() if seed is None else RunKey.from_seed(seed),
            charge=self.reservation,
            first_step=self.first_step,
        )
