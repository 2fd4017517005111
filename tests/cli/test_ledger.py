# SPDX-License-Identifier: Apache-2.0
"""`confide ledger` as a process of its own would run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from confide.cli.main import run
from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch

PLAN = PrivacyPlan(8.0, 1.0, 40, 1e-5, 5000, sampling=FullBatch())


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "data" / "ledger.sqlite"
    monkeypatch.setenv("CONFIDE_LEDGER", str(path))
    monkeypatch.setenv("CONFIDE_LEDGER_SECRETS", str(tmp_path / "secrets"))
    with Ledger.open() as book:
        book.register("chest", "fingerprint", PLAN.unit)
        reservation = book.reserve("chest", PLAN, run="/home/someone/runs/first")
        for step in range(10):
            reservation.charge(step)
    return path


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        run(["ledger", *words])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_show(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "show", "--json")
    answer = json.loads(out)
    chest = answer["datasets"]["chest"]
    assert code == 0 and chest["steps_leased"] == 10 and chest["steps_reserved"] == 40
    assert chest["epsilon"] == pytest.approx(PLAN.epsilon(steps=10))
    assert chest["reserved_epsilon"] == pytest.approx(PLAN.epsilon())
    assert answer["runs"][0]["label"] == "first" and answer["runs"][0]["adjacency"] == "add-or-remove-one"
    code, out, _ = call(capsys, "show")
    assert code == 0 and "chest" in out and "first" in out


def test_limit_settle_export_verify(ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "limit", "chest", "--epsilon", "6", "--delta", "1e-5", "--json")
    assert code == 0 and json.loads(out)["limit"] == 6
    code, out, _ = call(capsys, "settle", "first", "--json")
    assert code == 0 and json.loads(out)["leased"] == 10 and not json.loads(out)["open"]
    code, out, _ = call(capsys, "export", str(tmp_path / "e.jsonl"), "--json")
    assert code == 0
    code, out, _ = call(capsys, "verify", str(tmp_path / "e.jsonl"), "--json")
    exported = json.loads(out)
    code, out, _ = call(capsys, "verify", "--json")
    assert code == 0 and json.loads(out)["head"] == exported["head"]


def test_a_lowered_limit_is_recorded(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "limit", "chest", "--epsilon", "0.01", "--delta", "1e-5")
    assert code == 0 and "nothing further" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "nothing"), 2),
        (("limit", "chest", "--epsilon", "-1", "--delta", "1e-5"), 2),
        (("limit", "chest", "--epsilon", "1", "--delta", "2"), 2),
        (("settle", "nothing"), 1),
        (("verify", "/nonexistent/file"), 1),
    ],
)
def test_errors(ledger: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int) -> None:
    got, out, err = call(capsys, *words)
    assert (got, out) == (code, "") and err.startswith("error: ") and "Traceback" not in err


def test_an_altered_export_is_found(ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.jsonl"
    call(capsys, "export", str(path))
    path.write_text(path.read_text().replace('"steps":40', '"steps":41'))
    code, _, err = call(capsys, "verify", str(path))
    assert code == 1 and "altered" in err
