# SPDX-License-Identifier: Apache-2.0
"""The parts of a run's record that describe data, model, versions and cost."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from confide.experiments.config import Experiment
from confide.experiments.record import Baseline, Cost, DataRecord, ModelRecord, RunRecord, Spent, Status
from confide.experiments.resident import peak_mib

if TYPE_CHECKING:
    import torch
    from torch import nn

    from confide.data.catalog import DataSplits
    from confide.experiments.results import Results
    from confide.experiments.session import Session


@dataclass(frozen=True)
class Ended:
    """How a run stands: its status, its seconds so far, the steps that count as spent."""

    status: Status
    seconds: float
    charged: int


PACKAGES = ("confide", "torch", "numpy", "scipy", "dp-accounting", "cryptography", "scikit-learn", "monai")


def versions() -> dict[str, str]:
    """Versions that decide what a run computes."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def describe_run(session: Session, ended: Ended, found: Results | None) -> RunRecord:
    """The record of a run as it stands. What is spent is what was charged; a running one says none."""
    experiment, privacy, progress = session.experiment, session.privacy, session.progress
    seeded = experiment.seed is not None
    guarantee = spent = None
    if privacy is not None:
        guarantee = privacy.plan.guarantee(private=not seeded).to_dict()
        # While it runs, steps are charged that this record would not know of after a crash.
        if ended.charged and ended.status != "running":
            epsilon = privacy.plan.epsilon(steps=ended.charged)
            spent = Spent(epsilon=epsilon, delta=privacy.plan.delta, steps=ended.charged)
    device = next(session.trainer.model.parameters()).device
    return RunRecord(
        name=experiment.name,
        status=ended.status,
        created=progress.created,
        finished=datetime.now(UTC) if ended.status in ("finished", "exhausted") else None,
        command=session.command,
        guarantee=guarantee,
        local_guarantee=dict(local) if (local := session.splits.local_guarantee) is not None else None,
        spent=spent,
        declared_public=declared_public(experiment, session.splits),
        metrics=found.metrics if found else {},
        baseline=found.baseline if found else Baseline(),
        versions=versions(),
        data=describe_data(session.splits, session.units),
        model=describe_model(experiment, session.trainer.model, session.splits),
        seed_policy="not private: seeded" if seeded else "operating system",
        cost=describe_cost(ended.seconds, progress.step, device),
        calibration=found.calibration if found else None,
        training=experiment.training.model_dump(mode="json"),
        warnings=[*progress.warnings, *left_out(session.splits)],
    )


def left_out(splits: DataSplits) -> list[str]:
    """How many files were skipped; their names may name people, so they are not in a record."""
    count = len(splits.bad)
    return [f"{count} files or lines could not be used and were left out (skip_bad)"] if count else []


def declared_public(experiment: Experiment, splits: DataSplits) -> list[str]:
    """What the run takes from outside its private mechanism."""
    weights, start = experiment.training.class_weights, experiment.training.initial_weights
    return [
        *splits.declared_public,
        *([f"class weights of the loss: {', '.join(f'{w:g}' for w in weights)}"] if weights else []),
        *([f"initial weights: {Path(start).name}"] if start else []),
        "the temperature of the stated probabilities, fitted on validation images",
        "every other value of the experiment file",
    ]


def describe_data(splits: DataSplits, units: int) -> DataRecord:
    """Which data, and whose. `units` is the declared n."""
    info = splits.info
    rows = {
        part.split: len(part) for part in (splits.train, splits.validation, splits.test) if part is not None
    }
    return DataRecord(
        name=info.name,
        title=info.title,
        fingerprint=splits.fingerprint,
        unit=splits.train.unit,
        units=units,
        rows=rows,
        classes=list(info.classes),
        task=info.task,
        licence=info.licence,
        citation=info.citation,
        remarks=info.remarks if isinstance(info.remarks, str) else " ".join(info.remarks),
    )


def describe_model(experiment: Experiment, model: nn.Module, splits: DataSplits) -> ModelRecord:
    """How to build the model again, and how its input is made."""
    height, width = splits.train.images.shape[-2:]
    return ModelRecord(
        name=experiment.model.name,
        options=experiment.model.options,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        in_channels=splits.info.channels,
        size=(int(height), int(width)),
        mean=list(splits.info.mean),
        std=list(splits.info.std),
    )


def majority_baseline(labels: np.ndarray, classes: tuple[str, ...]) -> Baseline:
    """Always the most frequent class of the test set: the accuracy that costs no image a look."""
    counts = np.bincount(labels, minlength=len(classes))
    best = int(counts.argmax())
    return Baseline(majority_accuracy=float(counts[best] / counts.sum()), majority_class=classes[best])


def describe_cost(seconds: float, steps: int, device: torch.device) -> Cost:
    """Wall time of training, and the highest memory of this process."""
    return Cost(
        seconds=seconds,
        seconds_per_step=seconds / steps if steps else None,
        peak_memory_mb=peak_mib(),
        device=str(device) if device.type == "cpu" else f"{device}, {_cuda_name(device)}",
    )


def _cuda_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device)
