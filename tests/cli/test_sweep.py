# SPDX-License-Identifier: Apache-2.0
"""`confide sweep` and `confide reproduce`: exit codes, JSON, and words on errors."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from confide.cli.main import run
from confide.cli.sweep import LiveTable
from confide.experiments.sweep_record import CellRecord

GRID: dict[str, Any] = {
    "name": "g",
    "base": {
        "data": {"name": "pneumoniamnist"},
        "model": {"name": "resnet9", "widths": [2, 2, 2]},
        "privacy": {"noise_multiplier": 1.0, "delta": 1e-5, "ledger": False},
        "training": {"batch_size": 16, "steps": 1},
        "evaluation": {"bootstrap": 0},
        "threads": 1,
    },
    "axes": {"seed": [1]},
}


def confide(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


def written(folder: Path, grid: dict[str, Any]) -> str:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return str(path)


def test_a_sweep_ends_with_0_and_states_its_guarantees_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, GRID)
    assert confide("sweep", path, "--out", str(tmp_path / "out")) == 0
    said = " ".join(capsys.readouterr().out.split())
    for word in ("δ = 1e-05", "per image", "accountant: PLD", "sampling: poisson"):
        assert word in said
    assert "not covered by any cell's ε" in said
    # Again: nothing runs, and the records come as JSON.
    assert confide("sweep", path, "--out", str(tmp_path / "out"), "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["cell"], record["status"], record["run"]["guarantee"]["delta"]) == ("1", "finished", 1e-5)


def test_a_failed_cell_ends_with_1_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = GRID | {"axes": {"data.name": ["nowhere-at-all"]}}
    assert confide("sweep", written(tmp_path, grid), "--out", str(tmp_path / "out")) == 1
    assert "failed: nowhere-at-all: there is no data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "absent.yaml"], "cannot read the grid file"),
        (["reproduce", "hoelzl-table9"], "there is no published table or figure"),
        (["reproduce", "hoelzl-table1", "--scale", "huge"], "there is no scale 'huge'"),
        (["reproduce", "hoelzl-table1", "--only", "nothing-of-that"], "no cell of hoelzl-table1"),
        (["reproduce", "hoelzl-table1", "--engine", "slurm"], "there is no engine 'slurm'"),
        (["reproduce", "hoelzl-table1", "--address", "x:1"], "the local engine takes no address"),
    ],
)
def test_bad_input_ends_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert confide(*words) == 2
    assert said in capsys.readouterr().err


def test_all_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert confide("reproduce", "list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_pages_are_written_without_running_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert confide("reproduce", "pages", "--out", str(tmp_path)) == 0
    pages = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(pages) == 9
    assert all("Not run yet" in page.read_text(encoding="utf-8") for page in pages)


def test_time_left_is_by_the_cells_done_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("confide.cli.sweep.time.monotonic", lambda: now[0])
    table = LiveTable(quiet=True)
    table.planned(5, 1)
    table.began("a")
    assert table.left() is None
    now[0] = 30.0
    table.ended(ended("a", "finished"))
    table.began("c")
    table.ended(ended("b", "failed"))
    # Two cells took 30 s, one was there before, two are left.
    assert table.left() == 30.0
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(table.picture())
    shown = console.export_text()
    assert "3 of 5 cells, 1 running, 1 failed, about 30 s left" in shown
    assert "b" in shown and "it broke" in shown


def ended(cell: str, status: Any) -> CellRecord:
    return CellRecord(
        grid="g", cell=cell, labels={}, digest="", status=status, started=datetime.now(UTC), seconds=1,
        error="it broke" if status == "failed" else "", experiment={},
    )  # fmt: skip
