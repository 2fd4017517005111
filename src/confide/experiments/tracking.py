# SPDX-License-Identifier: Apache-2.0
"""What of a run is sent to a tracker, while it trains or afterwards.

Whole lines of `metrics.jsonl`, and the scores of `run.json` at the end: released losses, ε, held-out scores.
There is no other source, so no number can be sent that no mechanism released. Diagnostics of
gradients are sent only where they were taken on public data. No path, no image and no identifier is sent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confide.errors import ConfideError
from confide.experiments import history
from confide.experiments.history import DiagnosticLine, EvaluationLine, Line, StepLine
from confide.experiments.record import FILE, RunRecord
from confide.experiments.trackers import EPSILON, Tracker, tracker
from confide.privacy.guarantee import delta_text

# A run is not held up by its tracker more often than this.
_SECONDS = 2.0


def released(line: Line, record: RunRecord) -> dict[str, float]:
    """What may be sent of a line; empty for un-noised statistics of private data.

    ε is named with everything it depends on, because a curve travels without its caption.
    """
    values: dict[str, float | None] = {}
    match line:
        case StepLine():
            values = {"train/loss": line.loss}
            if line.epsilon is not None and (name := epsilon_name(record)):
                values[name] = line.epsilon
        case EvaluationLine():
            values = {f"{line.split}/{name}": value for name, value in line.metrics.items()}
        case DiagnosticLine() if line.public:
            values = {
                "public gradients/sparsity": line.sparsity,
                "public gradients/clip fraction": line.clip_fraction,
            }
        case DiagnosticLine():
            pass
    return {name: value for name, value in values.items() if value is not None}


def epsilon_name(record: RunRecord) -> str:
    """The name of the ε curve: with δ, unit, accountant and sampling; empty for a run without DP."""
    g = record.guarantee
    if g is None:
        return ""
    seeded = "" if record.seed_policy == "operating system" else " not private because seeded"
    return (
        f"{EPSILON}delta {delta_text(g['delta'])} per {g['unit']} {g['accountant']} {g['sampling']}{seeded}"
    )


def settings_of(record: RunRecord) -> dict[str, str]:
    """What describes the run beside its curves."""
    guarantee = (record.guarantee or {}).get("text", "none: trained without DP")
    return {
        "guarantee": str(guarantee),
        "data": record.data.name,
        "privacy unit": record.data.unit.value,
        "model": record.model.name,
        "parameters": str(record.model.parameters),
        **{f"training {key}": str(value) for key, value in record.training.items()},
    }


class Follower:
    """Sends what is new in a run folder, each line once.

    Args:
        folder: The run folder.
        tracker: Where to.
        skip: Leave out what is there already, as for a run that is resumed.
    """

    def __init__(self, folder: Path, tracker: Tracker, *, skip: bool = False) -> None:
        self.folder = folder
        self.tracker = tracker
        path = folder / history.FILE
        self._offset = path.stat().st_size if skip and path.exists() else 0
        self._record: RunRecord | None = None

    def poll(self) -> int:
        """Send every whole new line; returns how many there were. Before `run.json` exists: none."""
        path = self.folder / history.FILE
        if not path.exists() or not (self.folder / FILE).exists():
            return 0
        with path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        record = self._started()
        rows = whole.splitlines()
        for row in rows:
            if row.strip():
                line = history.parse(row)
                if values := released(line, record):
                    self.tracker.send(line.step, values)
        self._offset += len(whole) + len(newline)
        return len(rows)

    def finish(self) -> None:
        """Send the rest, the scores on the test images, and the end."""
        self.poll()
        self._started()
        record = RunRecord.load(self.folder)
        step = record.spent.steps if record.spent is not None else history.load(self.folder).last_step
        for split, metrics in record.metrics.items():
            values = {f"{split}/{name} at end": m.value for name, m in metrics.items() if m.value is not None}
            if values:
                self.tracker.send(step, values)
        self.tracker.end(record.status)

    def _started(self) -> RunRecord:
        if self._record is None:
            self._record = RunRecord.load(self.folder)
            self.tracker.start(self._record.name, settings_of(self._record))
        return self._record


class Tracking:
    """A listener of `fit` that follows its run. A tracker that fails is given up; the run goes on.

    Args:
        name: "tensorboard" or "mlflow".
        report: Told why a tracker was given up.
    """

    def __init__(self, name: str, report: Callable[[str], None] | None = None) -> None:
        self.name = name
        self.report = report if report is not None else _tell
        self._follower: Follower | None = None
        self._last = 0.0

    def reading(self, done: int, total: int) -> None:
        """Nothing is released yet."""

    def started(self, session: Any) -> None:
        """Begin; a run that is resumed sends only what is new."""
        folder = session.experiment.folder
        self._follower = Follower(folder, tracker(self.name, folder), skip=session.progress.step > 0)
        session.on_close(self.close)

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        """Send what is new, at most every two seconds."""
        if time.monotonic() - self._last > _SECONDS:
            self._do("poll")

    def evaluated(self, epoch: float, metrics: dict[str, float | None]) -> None:
        """Send what is new."""
        self._do("poll")

    def close(self) -> None:
        """Send the rest."""
        self._do("finish")
        self._follower = None

    def _do(self, action: str) -> None:
        self._last = time.monotonic()
        if self._follower is None:
            return
        try:
            getattr(self._follower, action)()
        except Exception as error:  # whatever a foreign client raises
            self._follower = None
            self.report(f"{self.name} was given up, the run goes on: {type(error).__name__}: {error}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


class Together:
    """Several listeners as one.

    Args:
        listeners: Told one after another.
    """

    def __init__(self, *listeners: Any) -> None:
        self.listeners = listeners

    def reading(self, done: int, total: int) -> None:
        """Tell all."""
        for one in self.listeners:
            one.reading(done, total)

    def started(self, session: Any) -> None:
        """Tell all."""
        for one in self.listeners:
            one.started(session)

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        """Tell all."""
        for one in self.listeners:
            one.stepped(number, loss, epsilon)

    def evaluated(self, epoch: float, metrics: dict[str, float | None]) -> None:
        """Tell all."""
        for one in self.listeners:
            one.evaluated(epoch, metrics)


def send_run(folder: Path, name: str) -> None:
    """Send a run that is there already, finished or not.

    Raises:
        ConfideError: If the folder is no run, or the tracker cannot be used.
    """
    RunRecord.load(folder)
    place = tracker(name, folder)
    try:
        Follower(folder, place).finish()
    except ConfideError:
        raise
    except Exception as error:  # whatever a foreign client raises
        raise ConfideError(f"{name} failed: {type(error).__name__}: {error}") from None
