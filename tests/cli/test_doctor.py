# SPDX-License-Identifier: Apache-2.0
"""`confide doctor`."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from confide.cli import doctor
from confide.cli.main import run
from confide.privacy.ledger import places


def test_it_says_what_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONFIDE_LEDGER", str(tmp_path / "ledger.sqlite"))
    with pytest.raises(SystemExit) as end:
        run(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not end.value.code
    assert found["packages"]["torch"] == metadata.version("torch")
    assert "AES-256-CTR" in found["entropy"]
    assert found["ledger"].startswith(str(tmp_path)) and "made at the first" in found["ledger"]
    with pytest.raises(SystemExit):
        run(["doctor"])
    assert "entropy" in capsys.readouterr().out


def test_it_warns_of_a_ledger_on_a_shared_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(places, "_MOUNTS", mounts)
    monkeypatch.setenv("CONFIDE_LEDGER", str(tmp_path / "ledger.sqlite"))
    found = str(doctor.examine()["ledger"])
    assert "refused" in found and "nfs4" in found and "CONFIDE_LEDGER" in found
