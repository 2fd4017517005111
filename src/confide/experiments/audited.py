# SPDX-License-Identifier: Apache-2.0
"""From a run folder to what an audit attacks: the same model, data, plan and clipping, with fresh secrets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from confide.audit.membership import Membership, loss_attack
from confide.audit.rehearsal import Subject, mislabelled
from confide.audit.run import AuditResult, audit_run
from confide.data.augment import Augmentation
from confide.data.catalog import DataSplits
from confide.errors import InputError, RunError
from confide.experiments.config import Experiment
from confide.experiments.folder import EXPERIMENT
from confide.experiments.planning import make_plan, make_work, within_budget
from confide.experiments.prepare import (
    build_model,
    choose_device,
    full_loss,
    load_data,
    make_clipping,
    make_loss,
    make_optimizer,
)
from confide.experiments.record import Audit, AuditBound, RunRecord, load_run
from confide.experiments.sections import PrivacyConfig
from confide.experiments.trained import trained_model
from confide.privacy.guarantee import Guarantee
from confide.privacy.ledger import Ledger
from confide.training.mechanism import with_releases
from confide.training.step import Charge

# Steps under attack where the run had more: an attack of as many minutes as a user waits for.
STEPS = 200


@dataclass(frozen=True)
class AuditedRun:
    """A run folder, with everything in it made anew.

    Attributes:
        record: As it was read.
        subject: The training, None for a run without DP.
    """

    folder: Path
    experiment: Experiment
    record: RunRecord
    splits: DataSplits
    subject: Subject | None

    @classmethod
    def open(cls, folder: Path) -> AuditedRun:
        """Read a run folder and its data.

        Raises:
            RunError: If it is no finished run, or its data have changed.
            DataError: If its data are not here.
        """
        record = RunRecord.load(folder)
        if record.status not in ("finished", "exhausted"):
            raise RunError(
                f"is {record.status}",
                where=str(folder),
                why="An audit is of a training that is over.",
                remedy="Let the training finish.",
            )
        experiment = Experiment.load(folder / EXPERIMENT)
        splits = load_data(experiment.data)
        if splits.fingerprint != record.data.fingerprint:
            raise RunError(
                "was trained on other data than those that its experiment.yaml names now",
                where=str(folder),
                why="The fingerprints differ.",
                remedy="Put the data of the run in their place.",
            )
        return cls(folder, experiment, record, splits, _subject(experiment, splits))

    def audit(
        self,
        *,
        steps: int | None = STEPS,
        canaries: int = 1000,
        confidence: float = 0.95,
        black_box: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> AuditResult:
        """Attack the run's training, and note the result in `run.json`.

        Args:
            steps: Steps under attack, at most; None: as many as the run had.
            black_box: Also attack a finished model by mislabelled images. That trains a model on the data, so
                the ledger is charged.

        Raises:
            InputError: If the run claims no privacy.
            BudgetExhaustedError: If the black-box attack is not within the ledger's limit.
        """
        if self.subject is None or self.record.guarantee is None:
            raise InputError(
                "claims no privacy, so there is no claim to audit",
                where=str(self.folder),
                remedy="`confide audit RUN --membership` attacks its model.",
            )
        total = self.subject.plan.steps
        taken = total if steps is None else min(steps, total)
        with ExitStack() as stack:
            charge = self._charge(taken, stack) if black_box else None
            result = audit_run(
                self.subject,
                canaries=canaries,
                steps=taken,
                confidence=confidence,
                black_box=self._input_canaries(canaries) if black_box else None,
                claim=Guarantee.from_dict(self.record.guarantee),
                charge=charge,
                progress=progress,
            )
        noted(self.record, result).save(self.folder)
        return result

    def _charge(self, steps: int, stack: ExitStack) -> Charge | None:
        privacy = self.experiment.privacy
        if self.subject is None or not isinstance(privacy, PrivacyConfig) or not privacy.ledger:
            return None
        ledger = stack.enter_context(Ledger.open())
        name = self.splits.info.name
        ledger.register(name, self.splits.fingerprint, self.splits.train.unit)
        run = str(self.folder.resolve().with_name(f"{self.folder.resolve().name}-audit"))
        reservation = ledger.reserve(name, self.subject.steps_plan(steps), run=run)
        stack.callback(reservation.close, steps)
        return reservation

    def _input_canaries(self, canaries: int) -> tuple[Tensor, Tensor]:
        """Held-out images with wrong labels."""
        if self.splits.info.task != "classification":
            raise InputError("the black-box attack mislabels images; this run segments them")
        held_out = self.splits.validation if len(self.splits.validation) else self.splits.test
        rows = torch.randperm(len(held_out))[:canaries].numpy()
        images, labels = held_out.batch(rows)
        return images, mislabelled(labels, len(self.splits.info.classes))

    def membership(self) -> Membership:
        """Try to tell the run's training units from held-out ones. Not private; nothing is written.

        Raises:
            RunError: If the run kept no model.
            InputError: If there are no held-out images.
        """
        others = self.splits.test if len(self.splits.test) else self.splits.validation
        if not len(others):
            raise InputError("has no held-out images to compare with", where=str(self.folder))
        return loss_attack(
            trained_model(load_run(self.folder)),
            full_loss(self.experiment.training, self.splits),
            self.splits.train,
            others,
            unit=self.splits.train.unit.value,
            untrained=build_model(self.experiment, self.splits),
        )


def noted(record: RunRecord, result: AuditResult) -> RunRecord:
    """The record with the audit's result; the report shows it."""
    best = result.best
    bounds = [AuditBound(**bound.to_dict()) for bound in result.bounds]
    audit = Audit(
        epsilon_lower_bound=best.epsilon,
        confidence=result.confidence,
        method=f"{best.method}, {best.steps} steps, {result.canaries} canaries",
        detail=f"It rests on: {best.rests_on}.",
        refuted=result.refuted,
        bounds=bounds,
        made=datetime.now(UTC),
    )
    return record.model_copy(update={"audit": audit})


def _subject(experiment: Experiment, splits: DataSplits) -> Subject | None:
    privacy, training = experiment.privacy, experiment.training
    if not isinstance(privacy, PrivacyConfig):
        return None
    # Threads, seed and device change nothing about the claim; a seeded start is as public as any.
    model = build_model(experiment, splits).to(choose_device(experiment.device))
    clipping = make_clipping(privacy.clipping, [n for n, p in model.named_parameters() if p.requires_grad])
    units = privacy.units or splits.train.n_units
    plan = within_budget(make_plan(experiment, units, splits.train.unit), privacy.epsilon)
    names = training.augmentation.operations
    return Subject(
        model,
        splits.train,
        with_releases(plan, clipping, loss=privacy.release_loss),
        make_loss(training, splits),
        clipping,
        optimizer=lambda network: make_optimizer(network, training.optimizer),
        views=training.augmentation.views,
        augmentation=Augmentation.of(names) if names else None,
        release_loss=privacy.release_loss,
        work=make_work(experiment),
    )
