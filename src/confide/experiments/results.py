# SPDX-License-Identifier: Apache-2.0
"""The end of a run: the model is scored once on held-out images, and its weights are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from confide.data.catalog import DataSplits
from confide.evaluation.bootstrap import Bootstrap
from confide.experiments.config import Experiment
from confide.experiments.describe import majority_baseline
from confide.experiments.record import Baseline, Calibration, Measured
from confide.experiments.scores import predictions_of, sample_rows, score, temperature_of
from confide.experiments.trained import FILE as WEIGHTS


@dataclass(frozen=True)
class Results:
    """What a finished run adds to its record."""

    metrics: dict[str, dict[str, Measured]] = field(default_factory=dict[str, dict[str, Measured]])
    baseline: Baseline = field(default_factory=Baseline)
    calibration: Calibration | None = None


def write_results(experiment: Experiment, splits: DataSplits, model: nn.Module) -> Results:
    """Score the model and write `model.safetensors` and `predictions.npz` into the run folder."""
    config, folder = experiment.evaluation, experiment.folder
    save_weights(model, folder)
    bootstrap = Bootstrap(config.bootstrap) if config.bootstrap else None
    metrics: dict[str, dict[str, Measured]] = {}
    temperature = None
    if len(splits.validation):
        found = score(model, splits.validation, batch_size=config.batch_size, bootstrap=bootstrap)
        metrics["validation"] = found.measured()
        temperature = temperature_of(found)
    baseline = Baseline()
    if config.test != "never" and len(splits.test):
        shown = config.samples if config.samples is not None else _published(splits) * 24
        rows = sample_rows(splits.test, shown)
        found = score(model, splits.test, batch_size=config.batch_size, bootstrap=bootstrap, sampled=rows)
        metrics["test"] = found.measured()
        predictions_of(found, splits.test, rows).save(folder)
        if found.labels is not None:
            baseline = majority_baseline(found.labels, splits.info.classes)
    calibration = Calibration(temperature=temperature) if temperature is not None else None
    return Results(metrics, baseline, calibration)


def _published(splits: DataSplits) -> int:
    """1 for a published data set, 0 for one's own: patients' images stay where they are unless asked for."""
    return 0 if splits.fingerprint.startswith("keyed:") else 1


def save_weights(model: nn.Module, folder: Path) -> Path:
    """Write `model.safetensors` in one piece."""
    from safetensors.torch import save_file

    path = folder / WEIGHTS
    part = path.with_suffix(".safetensors.part")
    # Clones: safetensors refuses tensors that share memory, such as tied weights.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}, part)
    part.replace(path)
    return path
