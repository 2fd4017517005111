# SPDX-License-Identifier: Apache-2.0
"""`fit`: from an experiment to a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from confide.experiments.config import Experiment
from confide.experiments.folder import Start, open_folder
from confide.experiments.record import RunRecord


class Listener(Protocol):
    """Somebody who watches a run, such as the command line's progress bar."""

    def reading(self, done: int, total: int) -> None:
        """Images are being decoded into the cache, which happens once."""
        ...

    def started(self, session: Any) -> None:
        """Everything is prepared; the first step comes next."""
        ...

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        """A step is done; `loss` was released by the mechanism, `epsilon` bounds what was spent."""
        ...

    def evaluated(self, epoch: float, metrics: dict[str, float | None]) -> None:
        """The validation images were scored."""
        ...


class Silent:
    """A listener that says nothing."""

    def reading(self, done: int, total: int) -> None:
        """Say nothing."""

    def started(self, session: Any) -> None:
        """Say nothing."""

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        """Say nothing."""

    def evaluated(self, epoch: float, metrics: dict[str, float | None]) -> None:
        """Say nothing."""


def fit(
    experiment: Experiment | str | Path,
    *,
    listener: Listener | None = None,
    fresh: bool = False,
    command: Sequence[str] | None = None,
) -> RunRecord:
    """Run an experiment, or go on with it where it stopped; a finished one is only read.

    Args:
        experiment: The experiment, or the path of its YAML file.
        listener: Told what happens.
        fresh: Move a run of the same name aside and begin anew.
        command: The command to write into the record; default: this process's.

    Returns:
        The record, also of an interrupted run (`status` says so).

    Raises:
        InputError: If anything given cannot be used; nothing is written then.
        BudgetExhaustedError: If the privacy budget allows no step at all.
    """
    if not isinstance(experiment, Experiment):
        experiment = Experiment.load(experiment)
    start = open_folder(experiment, fresh)
    if start is Start.FINISHED:
        return RunRecord.load(experiment.folder)
    from confide.experiments.opening import open_session

    words = list(sys.argv if command is None else command)
    told = listener or Silent()
    if experiment.trackers:
        from confide.experiments.tracking import Together, Tracking

        told = Together(told, *(Tracking(name) for name in experiment.trackers))
    resume = start is Start.RESUME
    with open_session(experiment, resume=resume, command=words, reading=told.reading) as session:
        return session.train(told)
