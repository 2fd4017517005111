# SPDX-License-Identifier: Apache-2.0
"""Trackers: where the curves of a run are drawn, in TensorBoard or MLflow.

What they are given is decided in `confide.experiments.tracking`; an adapter only passes it on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from confide.errors import ConfigError, MissingExtraError

# Curves of ε begin so; `TensorBoard` rounds them up.
EPSILON = "epsilon/"


class Tracker(Protocol):
    """A place that draws curves."""

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        """A run begins, or is taken up again."""
        ...

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Finite values after a step."""
        ...

    def end(self, status: str) -> None:
        """The run has ended; nothing follows."""
        ...


def tracker(name: str, folder: Path) -> Tracker:
    """A tracker by name.

    Raises:
        ConfigError: If there is none of this name, or it is not set up.
        MissingExtraError: If its package is not installed.
    """
    if name not in _TRACKERS:
        raise ConfigError(f"unknown tracker {name!r}", remedy=f"Choose one of: {', '.join(_TRACKERS)}.")
    return _TRACKERS[name](folder)


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "track", "writing TensorBoard files") from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        """The settings as a table in the text tab."""
        rows = "\n".join(f"| {key} | {' '.join(value.split())} |" for key, value in settings.items())
        self._writer.add_text("run", f"| {name} | |\n|---|---|\n{rows}")

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a value."""
        for name, value in values.items():
            self._writer.add_scalar(name, not_below(value) if name.startswith(EPSILON) else value, step)
        self._writer.flush()

    def end(self, status: str) -> None:
        """Close the files."""
        self._writer.add_text("status", status)
        self._writer.close()


class MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names; experiment "confide" or MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: Path) -> None:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise ConfigError(
                "no MLflow server is named",
                where="MLFLOW_TRACKING_URI",
                remedy="Set it, for example to http://127.0.0.1:5000.",
            )
        # The client would tell its makers how it is used.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise MissingExtraError("mlflow-skinny", "track", "writing to MLflow") from None
        try:
            self._client = MlflowClient()
        except Exception as error:
            raise ConfigError("cannot be used", where="MLFLOW_TRACKING_URI", why=str(error)) from None
        self._run = ""

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        """Make the run, with its settings as tags: they are too long for parameters."""
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "confide")
        found = self._client.get_experiment_by_name(title)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(title)
        tags = {key: value[:5000] for key, value in settings.items()}
        self._run = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """One call for all values of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow allows letters, digits and _-. :/ in names.
        named = {"".join(c if c.isalnum() or c in "_-. :/" else "_" for c in k): v for k, v in values.items()}
        self._client.log_batch(self._run, metrics=[Metric(k, v, now, step) for k, v in named.items()])

    def end(self, status: str) -> None:
        """Mark the run."""
        words = {"finished": "FINISHED", "exhausted": "FINISHED", "failed": "FAILED"}
        self._client.set_terminated(self._run, status=words.get(status, "KILLED"))


_TRACKERS = {"tensorboard": TensorBoard, "mlflow": MLflow}


def not_below(value: float) -> float:
    """The smallest float32 that is not below: event files hold float32, and ε must not shrink on the way."""
    narrow = np.float32(value)
    # As Python floats: numpy would round the other side to float32 too, and see no difference.
    return float(narrow) if float(narrow) >= value else float(np.nextafter(narrow, np.float32(np.inf)))
