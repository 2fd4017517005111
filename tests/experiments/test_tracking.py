# SPDX-License-Identifier: Apache-2.0
"""What reaches a tracker, read back with TensorBoard's and MLflow's own readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from confide.errors import ConfigError
from confide.experiments import history, tracking
from confide.experiments.config import Experiment
from confide.experiments.history import DiagnosticLine, EvaluationLine, StepLine
from confide.experiments.record import RunRecord
from confide.experiments.run import Silent, fit
from confide.experiments.trackers import not_below, tracker
from confide.experiments.tracking import Follower, Together, Tracking, released, send_run

Make = Callable[..., Experiment]


class Notes:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, str]]] = []
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.ended: list[str] = []

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        self.started.append((name, dict(settings)))

    def send(self, step: int, values: Mapping[str, float]) -> None:
        self.sent.append((step, dict(values)))

    def end(self, status: str) -> None:
        self.ended.append(status)


@pytest.fixture
def run(make: Make) -> Path:
    """A finished private run."""
    experiment = make()
    fit(experiment)
    return experiment.folder


def test_lines_are_sent_whole_and_once(run: Path) -> None:
    notes = Notes()
    follower = Follower(run, notes)
    follower.finish()
    lines = history.load(run)
    losses = [(step, values["train/loss"]) for step, values in notes.sent if "train/loss" in values]
    assert losses == [(line.step, line.loss) for line in lines.steps]
    assert notes.ended == ["finished"] and len(notes.started) == 1
    ends = [values for _, values in notes.sent if "test/accuracy at end" in values]
    record = RunRecord.load(run)
    assert [values["test/accuracy at end"] for values in ends] == [record.metrics["test"]["accuracy"].value]
    before = len(notes.sent)
    assert follower.poll() == 0 and len(notes.sent) == before
    # Half a line is not sent before its end is there.
    with (run / history.FILE).open("a", encoding="utf-8") as file:
        file.write('{"event":"step","step":10,"epoch":1.0,')
        file.flush()
        assert follower.poll() == 0
        file.write('"loss":0.5,"epsilon":2.0}\n')
    assert follower.poll() == 1 and notes.sent[-1][1]["train/loss"] == 0.5


def test_epsilon_is_named_with_all_it_depends_on(run: Path) -> None:
    record = RunRecord.load(run)
    values = released(StepLine(step=1, epoch=0.1, loss=0.5, epsilon=0.7), record)
    assert values == {"train/loss": 0.5, "epsilon/delta 0.001 per patient pld poisson": 0.7}
    seeded = record.model_copy(update={"seed_policy": "not private: seeded"})
    [name] = released(StepLine(step=1, epoch=0.1, epsilon=0.7), seeded)
    assert name.endswith("not private because seeded")


def test_what_was_not_noised_is_not_sent(run: Path) -> None:
    record = RunRecord.load(run)
    facts: dict[str, Any] = {"step": 1, "epoch": 0.1, "sparsity": 0.5, "clip_fraction": 0.2}
    assert released(DiagnosticLine(public=False, **facts), record) == {}
    assert released(DiagnosticLine(public=True, **facts), record) == {
        "public gradients/sparsity": 0.5,
        "public gradients/clip fraction": 0.2,
    }
    # A step that released no loss has none to send; an undefined score neither.
    assert released(StepLine(step=1, epoch=0.1), record) == {}
    assert released(EvaluationLine(step=1, epoch=0.1, metrics={"auc": None, "f1": 0.5}), record) == {
        "validation/f1": 0.5
    }


def test_no_path_of_the_machine_is_sent(run: Path) -> None:
    notes = Notes()
    Follower(run, notes).finish()
    said = json.dumps(notes.started + notes.sent)
    assert str(run.parents[1]) not in said
    assert "guarantee" in said and "delta" in said


def test_a_resumed_run_sends_only_what_is_new(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Notes] = []

    def place(name: str, folder: Path) -> Notes:
        places.append(Notes())
        return places[-1]

    monkeypatch.setattr(tracking, "tracker", place)
    from tests.experiments.test_session import At, ctrl_c

    fit(make(), listener=Together(At(4, ctrl_c), Tracking("notes")))
    fit(make(), listener=Together(Silent(), Tracking("notes")))
    steps = [[step for step, values in p.sent if "train/loss" in values] for p in places]
    assert steps == [[1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [p.ended for p in places] == [["interrupted"], ["finished"]]


def test_a_tracker_that_fails_never_ends_a_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Notes):
        def send(self, step: int, values: Mapping[str, float]) -> None:
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(tracking, "tracker", lambda name, folder: Broken())
    said: list[str] = []
    assert fit(make(), listener=Tracking("broken", said.append)).status == "finished"
    assert said == ["broken was given up, the run goes on: ConnectionError: the server is gone"]


def test_tensorboard_reads_what_was_written(run: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send_run(run, "tensorboard")
    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    lines = history.load(run).steps
    events = read.Scalars("train/loss")
    assert [event.step for event in events] == [line.step for line in lines]
    assert [event.value for event in events] == pytest.approx([line.loss for line in lines], rel=1e-6)
    [name] = [tag for tag in read.Tags()["scalars"] if tag.startswith("epsilon/")]
    assert "delta 0.001 per patient pld poisson" in name
    for event, line in zip(read.Scalars(name), lines, strict=True):
        assert line.epsilon is not None and line.epsilon <= event.value <= line.epsilon * (1 + 1e-6)


def test_epsilon_in_single_precision_is_never_below() -> None:
    for value in (0.1, 0.7, 1 / 3, 2.9999999999, 0.19123694888400938, 8.0, 0.0):
        found = not_below(value)
        assert found >= value and struct.unpack("f", struct.pack("f", found))[0] == found
        assert found - value <= 1.2e-7 * value


def test_mlflow_holds_what_was_sent(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    # Its plain files are the one store that needs no database and no server.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    send_run(run, "mlflow")
    [file] = (tmp_path / "mlruns").glob("*/*/metrics/train/loss")
    rows = [line.split() for line in file.read_text().splitlines()]
    lines = history.load(run).steps
    assert [(int(step), float(value)) for _, value, step in rows] == [(s.step, s.loss) for s in lines]
    folder = file.parents[2]
    assert "status: 3" in (folder / "meta.yaml").read_text(), "3 is FINISHED"
    assert "δ" in (folder / "tags" / "guarantee").read_text(encoding="utf-8")


def test_wrong_names_and_missing_servers_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Choose one of: tensorboard, mlflow"):
        tracker("wandb", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: no MLflow server is named"):
        tracker("mlflow", tmp_path)
