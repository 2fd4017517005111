# SPDX-License-Identifier: Apache-2.0
"""A point of a run's curves: scores of held-out images, and diagnostics where they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils._pytree import tree_map

from confide.evaluation.diagnostics import diagnostics
from confide.experiments import history
from confide.experiments.prepare import make_loss
from confide.experiments.scores import score
from confide.mechanisms.clipping import FlatClipping

if TYPE_CHECKING:
    from confide.experiments.run import Listener
    from confide.experiments.session import Session


def observe(session: Session, step: int, epsilon: float | None, listener: Listener) -> None:
    """A point of the curves: validation images, and test images only where the experiment asks for it."""
    config = session.experiment.evaluation
    wanted = {"validation": session.splits.validation}
    if config.test == "each-evaluation":
        wanted["test"] = session.splits.test
    with session.final_weights():
        for split, images in wanted.items():
            if not len(images):
                continue
            found = score(session.trainer.model, images, batch_size=config.batch_size).values()
            history.append(
                session.experiment.folder,
                history.EvaluationLine(
                    step=step, epoch=session.epoch(step), epsilon=epsilon, split=split, metrics=found
                ),
            )
            if split == "validation":
                listener.evaluated(session.epoch(step), found)
        _diagnose(session, step)


def _diagnose(session: Session, step: int) -> None:
    """Un-noised figures of gradients, only where the experiment asks for them."""
    config = session.experiment.diagnostics
    if config.of == "none":
        return
    images = session.splits.validation if config.of == "validation" else session.splits.train
    device = next(session.trainer.model.parameters()).device
    found = diagnostics(
        session.trainer.model,
        make_loss(session.experiment.training, session.splits),
        tree_map(lambda t: t.to(device), images.batch(np.arange(min(config.rows, len(images))))),
        session.clipping or FlatClipping(1.0),
    )
    line = history.DiagnosticLine(
        step=step, epoch=session.epoch(step), public=config.of == "validation", **found.line()
    )
    history.append(session.experiment.folder, line)
