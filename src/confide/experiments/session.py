# SPDX-License-Identifier: Apache-2.0
"""One run, from prepared objects to its record.

Order matters and is fixed here: the whole plan is reserved in the ledger before the first step, every step is
charged before its noise is drawn, and the record on disk never claims less than what was charged: while a run
goes on it claims nothing but the plan.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

from confide.data.augment import Augmentation
from confide.data.catalog import DataSplits
from confide.errors import BudgetExhaustedError, CheckpointError
from confide.experiments import history, snapshot
from confide.experiments.config import Experiment
from confide.experiments.describe import Ended, describe_run
from confide.experiments.observing import observe
from confide.experiments.planning import make_work
from confide.experiments.prepare import make_loss, set_stage
from confide.experiments.record import RunRecord, Status
from confide.experiments.results import Results, write_results
from confide.experiments.run import Listener
from confide.experiments.sections import PrivacyConfig
from confide.experiments.snapshot import Progress
from confide.mechanisms.clipping import AdaptiveClipping, Clipping
from confide.mechanisms.keys import RunKey
from confide.privacy.ledger import Reservation
from confide.privacy.plan import PrivacyPlan
from confide.training.plain import PlainLoop
from confide.training.spent import SpentCurve
from confide.training.step import private_steps
from confide.training.trainer import AnyStep, StopRequest, Trainer

# A crash loses at most so much work; what it spent stays charged.
_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Privacy:
    """What makes a session private: the plan to be done, and the number of steps that was wished for."""

    config: PrivacyConfig
    plan: PrivacyPlan
    scheduled: int
    clipping: Clipping
    spent: SpentCurve


@dataclass
class Session:
    """A prepared run. Use it as a context manager: leaving it lets the ledger go."""

    experiment: Experiment
    splits: DataSplits
    trainer: Trainer
    units: int
    total: int
    command: list[str]
    progress: Progress
    privacy: Privacy | None = None
    reservation: Reservation | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    _began: float = 0.0
    _saved: float = 0.0

    def on_close(self, action: Callable[[], object]) -> None:
        """Call something when the session ends, however it ends."""
        self.stack.callback(action)

    def close(self) -> None:
        """Let the ledger go; unused leases are given back, and a run without a step frees its reservation."""
        if self.reservation is not None and self.reservation.charged == 0:
            self.reservation.close(0)
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def clipping(self) -> Clipping | None:
        """The clipping as it stands; an adaptive bound moves with what each step released."""
        if self.privacy is None or self.progress.clip_bound is None:
            return self.privacy.clipping if self.privacy else None
        assert isinstance(self.privacy.clipping, AdaptiveClipping)
        return replace(self.privacy.clipping, bound=self.progress.clip_bound)

    def train(self, listener: Listener) -> RunRecord:
        """Take the remaining steps, score the model, and write the record."""
        self._began = self._saved = time.perf_counter()
        listener.started(self)
        self._record("running")
        try:
            status = self._loop(listener)
            self._checkpoint()
            if self.reservation is not None and status != "interrupted":
                self.reservation.close(self.progress.step)
        except BaseException as error:
            # A second Ctrl-C ends a step half-way; its charge stands, and the last checkpoint holds.
            self._record("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        if status == "interrupted":
            return self._record(status)
        with self.final_weights():
            found = write_results(self.experiment, self.splits, self.trainer.model)
        return self._record(status, found)

    def _loop(self, listener: Listener) -> Status:
        try:
            with StopRequest() as stop:
                outcome = self.trainer.run(self._steps(), lambda step: self._on_step(step, listener), stop)
        except BudgetExhaustedError as error:
            # The limit was lowered meanwhile: nothing of the refused step was computed.
            self.progress.warnings.append(str(error))
            return "exhausted"
        if outcome == "interrupted":
            return "interrupted"
        return "exhausted" if self.privacy and self.total < self.privacy.scheduled else "finished"

    def _steps(self) -> Iterator[AnyStep]:
        training = self.experiment.training
        names = training.augmentation.operations
        augmentation = Augmentation.of(names) if names else None
        loss = make_loss(training, self.splits)
        work = make_work(self.experiment)
        model, optimizer, seed = self.trainer.model, self.trainer.optimizer, self.experiment.seed
        if self.privacy is None:
            chosen = seed if seed is not None else secrets.randbits(32)
            loop = PlainLoop(
                model,
                self.splits.train,
                loss,
                training.batch_size,
                self.total,
                chosen,
                training.augmentation.views,
                augmentation,
                work,
            )
            return loop.run(optimizer, self.progress.step)
        return private_steps(
            model,
            optimizer,
            self.splits.train,
            self.privacy.plan,
            loss=loss,
            clipping=self.clipping,
            views=training.augmentation.views,
            augmentation=augmentation,
            release_loss=self.privacy.config.release_loss,
            work=work,
            key=RunKey.from_os() if seed is None else RunKey.from_seed(seed),
            charge=self.reservation,
            first_step=self.progress.step,
        )

    def _on_step(self, step: AnyStep, listener: Listener) -> None:
        before, now = self.progress.step, step.number
        self.progress.step = now
        clipping = self.clipping
        if step.unclipped is not None and isinstance(clipping, AdaptiveClipping):
            self.progress.clip_bound = clipping.updated(step.unclipped).bound
        epsilon = self.privacy.spent.at(now) if self.privacy else None
        line = history.StepLine(step=now, epoch=self.epoch(now), loss=_finite(step.loss), epsilon=epsilon)
        history.append(self.experiment.folder, line)
        listener.stepped(now, step.loss, epsilon)
        self.set_stage()
        every = max(1, math.ceil(self.experiment.evaluation.every_epochs * self.units / self._batch))
        if now // every > before // every or now == self.total:
            observe(self, now, epsilon, listener)
            self._checkpoint()
        elif time.perf_counter() - self._saved > _CHECKPOINT_SECONDS:
            self._checkpoint()

    def set_stage(self) -> None:
        """Staged unfreezing is a function of the step alone, so a resumed run thaws at the same places."""
        epoch = self.epoch(self.progress.step)
        set_stage(self.trainer.model, self.experiment.training.stages, epoch)

    @property
    def _batch(self) -> int:
        return self.experiment.training.batch_size

    def epoch(self, step: int) -> float:
        return step * self._batch / self.units

    def final_weights(self) -> Any:
        """Inside, the model has the weights that the run would give out now."""
        average = self.trainer.average
        return average.applied(self.trainer.model) if average is not None else nullcontext()

    def _checkpoint(self) -> None:
        self.progress.mark = self.reservation.mark() if self.reservation is not None else None
        self.progress.seconds += time.perf_counter() - self._began
        self._began = self._saved = time.perf_counter()
        try:
            snapshot.save(self.experiment.folder, self.trainer, self.progress)
        except CheckpointError as error:
            # Training goes on: the ledger has what was spent, and the older checkpoint is whole.
            text = f"a checkpoint was not written: {error}"
            if text not in self.progress.warnings:
                self.progress.warnings.append(text)

    def _record(self, status: Status, found: Results | None = None) -> RunRecord:
        seconds = self.progress.seconds + time.perf_counter() - self._began
        charged = self.reservation.charged if self.reservation is not None else self.progress.step
        record = describe_run(self, Ended(status, seconds, max(charged, self.progress.step)), found)
        record.save(self.experiment.folder)
        return record


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; a diverged loss is no number worth keeping."""
    return value if value is not None and abs(value) < float("inf") else None
