# SPDX-License-Identifier: Apache-2.0
"""The run folder: whether a run begins, resumes, is finished, or must not touch what is there."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from confide.errors import ConfigError, RunError
from confide.experiments.config import Experiment
from confide.experiments.record import FILE, RunRecord

EXPERIMENT = "experiment.yaml"
# Keys that change neither the model nor the claim: a run may resume under other values of these.
FREE = {
    "out",
    "device",
    "threads",
    "training.physical_batch_size",
    "training.method",
    "evaluation.batch_size",
    "trackers",
}


class Start(Enum):
    """What to do with a run's folder."""

    NEW = "new"
    RESUME = "resume"
    FINISHED = "finished"


def open_folder(experiment: Experiment, fresh: bool) -> Start:
    """Decide how a run starts; with `fresh`, what is there is moved aside, never deleted.

    Raises:
        ConfigError: If the folder cannot be written.
        RunError: If the folder holds another experiment, or something that is no run.
    """
    folder = experiment.folder
    if folder.exists() and fresh:
        _move_aside(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        _check_writable(folder)
        return Start.NEW
    if not (folder / FILE).exists() and (folder / EXPERIMENT).exists():
        return Start.NEW  # it stopped before its first record: nothing was trained
    record = RunRecord.load(folder)
    _check_same(experiment, folder)
    _check_writable(folder)
    return Start.FINISHED if record.status in ("finished", "exhausted") else Start.RESUME


def begin(experiment: Experiment) -> None:
    """Make the folder and write the resolved experiment into it."""
    experiment.folder.mkdir(parents=True, exist_ok=True)
    path = experiment.folder / EXPERIMENT
    part = path.with_suffix(".yaml.part")
    part.write_text(experiment.to_yaml(), encoding="utf-8")
    part.replace(path)


def _check_writable(folder: Path) -> None:
    """Refuse before anything is computed; nothing is left behind."""
    place = folder
    while not place.exists():
        place = place.parent
    reason = None
    if not place.is_dir():
        reason = f"{place} is a file."
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = "Permission denied."
    if reason:
        raise ConfigError(
            "cannot write the run's folder",
            where=str(folder),
            why=reason,
            remedy="Choose another with --set out=FOLDER.",
        )


def _move_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        raise ConfigError(
            "cannot move the earlier run aside", where=str(folder), why=error.strerror or ""
        ) from None


def _check_same(experiment: Experiment, folder: Path) -> None:
    """Refuse to resume one experiment as another."""
    try:
        there = yaml.safe_load((folder / EXPERIMENT).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError("cannot be resumed", where=str(folder / EXPERIMENT), why=str(error)) from None
    ours = _flat(yaml.safe_load(experiment.to_yaml()))
    theirs = _flat(there if isinstance(there, dict) else {})
    differing = sorted(
        k for k in ours.keys() | theirs.keys() if k not in FREE and ours.get(k) != theirs.get(k)
    )
    if differing:
        shown = ", ".join(f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}" for key in differing[:4])
        raise RunError(
            f"holds another experiment of the name {experiment.name!r}",
            where=str(folder),
            why=f"{shown}{' and more' if len(differing) > 4 else ''}.",
            remedy="Choose another name, or --fresh to keep that one aside and begin anew.",
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
