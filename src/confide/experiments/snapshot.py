# SPDX-License-Identifier: Apache-2.0
"""A run between two steps, as a checkpoint holds it: weights, optimizer, average, clip norm, ledger mark.

Everything in it is an output of the mechanism or a constant of the experiment. No key, no sampled unit, no
un-noised number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from confide.training import checkpoint
from confide.training.packing import pack, unpack
from confide.training.trainer import Trainer

FOLDER = "checkpoint"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: Steps released so far.
        created: When the run began.
        seconds: Training time so far.
        clip_bound: The clip norm that adaptive clipping has reached.
        mark: Where the ledger's chain stood.
        warnings: What a reader of the record should know.
    """

    step: int
    created: datetime
    seconds: float = 0.0
    clip_bound: float | None = None
    mark: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list[str])


def save(folder: Path, trainer: Trainer, progress: Progress) -> None:
    """Write the checkpoint of a run folder.

    Raises:
        CheckpointError: If it cannot be written; the previous one is untouched then.
    """
    tensors: dict[str, Tensor] = {}
    average = trainer.average
    state = {
        "step": progress.step,
        "created": progress.created.isoformat(),
        "seconds": progress.seconds,
        "clip_bound": progress.clip_bound,
        "mark": progress.mark,
        "warnings": progress.warnings,
        "model": pack("model", trainer.model.state_dict(), tensors),
        "optimizer": pack("optimizer", trainer.optimizer.state_dict(), tensors),
        "average": pack("average", average.weights, tensors) if average else None,
        "average_steps": average.steps if average else 0,
    }
    checkpoint.save(folder / FOLDER, tensors, state, checkpoint.checkpoint_key())


def restore(folder: Path, trainer: Trainer) -> Progress | None:
    """Put a trainer into the state of a run folder's checkpoint; None if there is none.

    Raises:
        CheckpointError: If the checkpoint is damaged, or not of this model.
    """
    if not checkpoint.exists(folder / FOLDER):
        return None
    tensors, state = checkpoint.load(folder / FOLDER, checkpoint.checkpoint_key())
    trainer.model.load_state_dict(cast("dict[str, Any]", unpack(state["model"], tensors)))
    trainer.optimizer.load_state_dict(cast("dict[str, Any]", unpack(state["optimizer"], tensors)))
    if trainer.average is not None:
        weights = cast("dict[str, Tensor]", unpack(state["average"], tensors))
        trainer.average.restore(weights, int(state["average_steps"]))
    return Progress(
        step=int(state["step"]),
        created=datetime.fromisoformat(state["created"]),
        seconds=float(state["seconds"]),
        clip_bound=state["clip_bound"],
        mark=state["mark"],
        warnings=list(state["warnings"]),
    )
