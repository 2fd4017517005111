# SPDX-License-Identifier: Apache-2.0
"""Opening a run: data, model, plan, budget. Nothing is written if anything given is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import torch

from confide.experiments import history, snapshot
from confide.experiments.config import Experiment
from confide.experiments.folder import begin
from confide.experiments.planning import hardened_numbers, make_plan, planned_steps, within_budget
from confide.experiments.prepare import (
    build_model,
    check_stages,
    choose_device,
    load_data,
    make_clipping,
    make_loss,
    make_optimizer,
    make_schedule,
)
from confide.experiments.sections import PrivacyConfig
from confide.experiments.session import Privacy, Session
from confide.experiments.snapshot import Progress
from confide.mechanisms.clipping import Clipping
from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan
from confide.training.average import WeightAverage
from confide.training.mechanism import with_releases
from confide.training.spent import SpentCurve
from confide.training.trainer import Trainer


def open_session(
    experiment: Experiment,
    *,
    resume: bool,
    command: Sequence[str],
    reading: Callable[[int, int], None] | None = None,
) -> Session:
    """Load the data, build the model, reserve the budget.

    Args:
        resume: Whether the run's folder holds the beginning of this very run.
        command: What the record says the run was started by.
        reading: Called with (images done, images in all) while files are decoded.

    Raises:
        InputError: If the experiment cannot be run.
        BudgetExhaustedError: If the budget, or the ledger's limit, refuses the plan.
    """
    if experiment.threads is not None:
        torch.set_num_threads(experiment.threads)
    device = choose_device(experiment.device)
    splits = load_data(experiment.data, reading)
    given = experiment.privacy if isinstance(experiment.privacy, PrivacyConfig) else None
    units = (given.units if given else None) or splits.train.n_units
    model = build_model(experiment, splits).to(device)
    make_loss(experiment.training, splits)
    check_stages(model, experiment.training.stages)
    scheduled = planned_steps(experiment.training, units)
    privacy = None
    if given:
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        integers = hardened_numbers(experiment, model)
        clipping = make_clipping(given.clipping, names)
        whole = make_plan(experiment, units, splits.train.unit, integers)
        privacy = _privacy(given, whole, clipping)
    optimizer = make_optimizer(model, experiment.training.optimizer)
    schedule = make_schedule(optimizer, experiment.training, scheduled)
    average = WeightAverage(model, experiment.training.ema) if experiment.training.ema else None
    session = Session(
        experiment=experiment,
        splits=splits,
        trainer=Trainer(model, optimizer, schedule, average),
        units=units,
        total=privacy.plan.steps if privacy else scheduled,
        command=list(command),
        progress=Progress(0, datetime.now(UTC), warnings=_outside(experiment)),
        privacy=privacy,
    )
    try:
        _restore(session, resume)
        begin(experiment)
    except BaseException:
        session.close()
        raise
    return session


def _restore(session: Session, resume: bool) -> None:
    """Take up the checkpoint and reserve the steps. The ledger outranks the checkpoint."""
    found = snapshot.restore(session.experiment.folder, session.trainer) if resume else None
    session.progress = found or session.progress
    charged = _reserve(session, resume)
    # Without a ledger the last line of the history tells how far the run had come.
    seen = history.load(session.experiment.folder).last_step if resume and session.privacy else 0
    lost = max(charged, seen) - session.progress.step
    if lost > 0:
        session.progress.step += lost
        session.progress.warnings.append(
            f"{lost} steps were charged before the run stopped and are not in its checkpoint; "
            "they count as spent and were not repeated"
        )
    session.trainer.schedule.at(session.progress.step)
    session.set_stage()


def _reserve(session: Session, resume: bool) -> int:
    """Reserve the plan, or take up the reservation of a run that stopped; returns the charged steps."""
    if session.privacy is None or not session.privacy.config.ledger:
        return 0
    ledger = session.stack.enter_context(Ledger.open())
    name, run = session.splits.info.name, str(session.experiment.folder.resolve())
    ledger.register(name, session.splits.fingerprint, session.splits.train.unit)
    if resume:
        session.reservation = ledger.resume(run, session.privacy.plan, mark=session.progress.mark)
    else:
        session.reservation = ledger.reserve(
            name, session.privacy.plan, run=run, study=session.experiment.study
        )
    return session.reservation.charged


def _privacy(config: PrivacyConfig, whole: PrivacyPlan, clipping: Clipping) -> Privacy:
    plan = with_releases(within_budget(whole, config.epsilon), clipping, loss=config.release_loss)
    return Privacy(config, plan, whole.steps, clipping, SpentCurve(plan))


def _outside(experiment: Experiment) -> list[str]:
    """What a reader must know before any figure of the run."""
    found = []
    if experiment.diagnostics.of == "train" and experiment.privacy != "none":
        found.append(
            "metrics.jsonl holds diagnostics of gradients of training images, without noise: they are "
            "outside the guarantee and must not be released"
        )
    return found
