# SPDX-License-Identifier: Apache-2.0
"""Sweeps: the same results in one process, in several, after a kill, and beside a cell that fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from confide.errors import ConfigError, MissingExtraError
from confide.experiments.sweep import Places, Unwatched, finished, run_sweep
from confide.experiments.sweep_grid import Cell, Grid
from confide.experiments.sweep_local import InProcess, LocalProcesses
from confide.experiments.sweep_record import CellRecord

VALUES: dict[str, Any] = {
    "name": "g",
    "base": {
        "data": {"name": "pneumoniamnist"},
        "model": {"name": "resnet9", "widths": [2, 2, 2]},
        "privacy": "none",
        "training": {"batch_size": 16, "steps": 2},
        "evaluation": {"test": "never", "bootstrap": 0},
    },
    "axes": {"seed": [1, 2, 3]},
}


def cells(**changes: Any) -> list[Cell]:
    return Grid.parse(VALUES | changes, where=Path("g.yaml")).cells()


def scores(records: list[CellRecord]) -> dict[str, Any]:
    """Everything that must not depend on how the cells were run."""
    found = {}
    for record in records:
        assert record.run is not None, record.error
        found[record.cell] = (record.digest, record.run.metrics, record.curve)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of an undisturbed sweep in one process."""
    places = Places.below(tmp_path_factory.mktemp("plain"))
    return scores(run_sweep("g", cells(), places, InProcess()))


class Counting(Unwatched):
    """Counts the cells that are run."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def began(self, cell: str) -> None:
        self.begun.append(cell)


def test_a_finished_sweep_runs_nothing_again(tmp_path: Path, expected: dict[str, Any]) -> None:
    first, again = Counting(), Counting()
    places = Places.below(tmp_path)
    run_sweep("g", cells()[:1], places, InProcess(), watcher=first)
    records = run_sweep("g", cells()[:1], places, InProcess(), watcher=again)
    assert (first.begun, again.begun) == (["1"], [])
    assert scores(records)["1"] == expected["1"]


def test_a_record_of_another_cell_does_not_count(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    (old,) = cells()[:1]
    run_sweep("g", [old], places, InProcess())
    assert list(finished([old], places)) == ["1"]
    longer = VALUES["base"] | {"training": {"batch_size": 16, "steps": 3}}
    noisy = {"seed": {"1": {"seed": 1, "cell.perturb.scale": 2}}}
    for (new,) in (cells(base=longer)[:1], cells(axes=noisy)):
        assert new.name == old.name
        assert finished([new], places) == {}


def test_a_damaged_record_does_not_count(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    places.results.mkdir()
    places.record("1").write_text('{"schema": 1, "cell": "1"')
    assert finished(cells(), places) == {}


def test_two_processes_give_what_one_gives(tmp_path: Path, expected: dict[str, Any]) -> None:
    records = run_sweep("g", cells(), Places.below(tmp_path), LocalProcesses(2, threads=1))
    assert scores(records) == expected


@pytest.mark.parametrize(("said", "threads"), [("1", 1), ("3", 3), ("", 2), ("0", 2), ("many", 2), (None, 2)])
def test_a_worker_takes_the_threads_that_the_environment_names(
    said: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the four cores of this machine are shared by the two jobs."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert LocalProcesses(2).threads_each() == threads
    assert LocalProcesses(2, threads=5).threads_each() == 5


class Killing(Counting):
    """Kills the worker that is about to get a cell, as the out-of-memory killer would."""

    def __init__(self, victim: str) -> None:
        super().__init__()
        self.victim = victim

    def began(self, cell: str) -> None:
        super().began(cell)
        if cell == self.victim:
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()


def test_a_worker_that_is_killed_costs_its_cell_only(tmp_path: Path, expected: dict[str, Any]) -> None:
    places = Places.below(tmp_path)
    records = run_sweep("g", cells(), places, LocalProcesses(1, threads=1), watcher=Killing("2"))
    failed = {record.cell: record.error for record in records if record.status == "failed"}
    assert list(failed) == ["2"]
    assert "SIGKILL" in failed["2"]
    # The next sweep runs the failed cell, and only that.
    counting = Counting()
    again = run_sweep("g", cells(), places, InProcess(), watcher=counting)
    assert counting.begun == ["2"]
    assert scores(again) == expected


def test_a_failed_cell_never_stops_the_rest(tmp_path: Path) -> None:
    axes = {"training.batch_size": [999999, 16], "data.name": ["nowhere-at-all", "pneumoniamnist"]}
    base = VALUES["base"] | {"privacy": {"noise_multiplier": 1.0, "delta": 1e-5, "ledger": False}}
    places = Places.below(tmp_path)
    records = run_sweep("g", cells(base=base, axes=axes), places, InProcess())
    status = {record.cell: record.status for record in records}
    assert status["16-pneumoniamnist"] == "finished"
    assert sum(word == "failed" for word in status.values()) == 3
    errors = {record.cell: record.error for record in records}
    assert "larger than the data set" in errors["999999-pneumoniamnist"]
    assert "no data set" in errors["16-nowhere-at-all"]


def test_one_coordinator_a_folder(tmp_path: Path) -> None:
    places = Places.below(tmp_path)

    class Second(Counting):
        def planned(self, cells_: int, finished_: int) -> None:
            with pytest.raises(ConfigError, match="another process"):
                run_sweep("g", [], places, InProcess())

    run_sweep("g", [], places, InProcess(), watcher=Second())
    run_sweep("g", [], places, InProcess())  # freed again


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        run_sweep("g", [], Places.below(tmp_path / "file"), InProcess())


def test_a_record_names_no_path_of_the_machine(tmp_path: Path) -> None:
    places = Places.below(tmp_path / "fine")
    run_sweep("g", cells(axes={"a": {"x": {"cell.perturb.scale": 2}}}), places, InProcess())
    text = places.record("x").read_text(encoding="utf-8")
    assert '"status": "finished"' in text
    assert str(tmp_path) not in text


def test_an_error_in_a_record_names_no_path_of_the_machine(tmp_path: Path) -> None:
    places = Places.below(tmp_path / "blocked")
    places.work.mkdir(parents=True)
    (places.work / "runs").write_text("a file where the run folders should be")
    (record,) = run_sweep("g", cells()[:1], places, InProcess())
    assert "WORK/runs is a file" in record.error
    assert str(tmp_path) not in places.record("1").read_text(encoding="utf-8")


_COORDINATOR = """
import sys, yaml
from pathlib import Path
from confide.experiments.sweep import Places, Unwatched, run_sweep
from confide.experiments.sweep_grid import Grid
from confide.experiments.sweep_local import LocalProcesses

class Telling(Unwatched):
    def ended(self, record):
        print(record.cell, flush=True)

if __name__ == "__main__":
    grid = Grid.parse(yaml.safe_load(sys.argv[1]), where=Path("g.yaml"))
    places, engine = Places.below(Path(sys.argv[2])), LocalProcesses(1, threads=1)
    run_sweep("g", grid.cells(), places, engine, watcher=Telling())
"""


@pytest.mark.distributed
def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path: Path, expected: dict[str, Any]) -> None:
    script = tmp_path / "coordinator.py"
    script.write_text(_COORDINATOR)
    out = tmp_path / "out"
    arguments = [sys.executable, str(script), yaml.safe_dump(VALUES), str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"  # the first cell has its record, the second is under way
        process.send_signal(signal.SIGKILL)
        process.wait()
    places = Places.below(out)
    before = places.record("1").read_bytes()
    counting = Counting()
    records = run_sweep("g", cells(), places, InProcess(), watcher=counting)
    assert "1" not in counting.begun
    assert places.record("1").read_bytes() == before
    assert scores(records) == expected


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_what_one_process_gives(tmp_path: Path, expected: dict[str, Any]) -> None:
    pytest.importorskip("ray")
    from confide.experiments.sweep_ray import RayCluster

    records = run_sweep("g", cells(), Places.below(tmp_path), RayCluster(jobs=2))
    assert scores(records) == expected


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_a_cell_that_fails_on_ray_never_stops_the_rest(tmp_path: Path, expected: dict[str, Any]) -> None:
    pytest.importorskip("ray")
    from confide.experiments.sweep_ray import RayCluster

    axes = {"seed": {"absent": {"data.name": "nowhere-at-all"}, "1": {"seed": 1}}}
    records = run_sweep("g", cells(axes=axes), Places.below(tmp_path), RayCluster(jobs=1))
    absent, one = records
    assert absent.status == "failed" and "no data set" in absent.error
    assert scores([one]) == {"1": expected["1"]}


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_an_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from confide.experiments.sweep_ray import RayCluster

    with pytest.raises(ConfigError, match="no Ray cluster"):
        run_sweep("g", cells()[:1], Places.below(tmp_path), RayCluster("no-such-scheme://nowhere"))


def test_without_ray_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from confide.experiments.sweep_ray import RayCluster

    monkeypatch.setitem(sys.modules, "ray", None)  # as Python marks a module that cannot be imported
    with pytest.raises(MissingExtraError, match=r"confide\[sweep\]"):
        run_sweep("g", cells()[:1], Places.below(tmp_path), RayCluster())
