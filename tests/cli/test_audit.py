# SPDX-License-Identifier: Apache-2.0
"""`confide audit` on a run that `confide train` made: verdict, exit code, record, and broken noise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.audit import bugs

from confide.cli.main import run
from confide.experiments.audited import AuditedRun
from confide.experiments.config import Experiment
from confide.experiments.record import RunRecord
from confide.experiments.run import fit
from confide.privacy.ledger import Ledger

# An honest run is refuted by chance once in 100,000 audits at most.
QUICK = ("--steps", "2", "--canaries", "100", "--confidence", "0.99999")


def _experiment(folder: Path, name: str, privacy: object) -> Experiment:
    return Experiment.parse(
        {
            "name": name,
            "data": {"name": "pneumoniamnist"},
            "model": {"name": "resnet9", "widths": [2, 4, 4]},
            "privacy": privacy,
            "training": {"batch_size": 48, "steps": 3},
            "evaluation": {"bootstrap": 0, "samples": 0},
            "out": str(folder),
        }
    )


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ledger of this module's own; returns the folder it lies in."""
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONFIDE_LEDGER", str(folder / "ledger.sqlite"))
        patch.setenv("CONFIDE_LEDGER_SECRETS", str(folder / "secrets"))
        yield folder


@pytest.fixture(scope="module")
def original(ledger: Path) -> Path:
    experiment = _experiment(ledger, "private", {"noise_multiplier": 3.0, "delta": 1e-5})
    assert fit(experiment).status == "finished"
    return experiment.folder


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(original, tmp_path / "private"))


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        run(["audit", *words])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_the_training_under_attack_has_the_loss_of_the_run(ledger: Path) -> None:
    """Its precision and its class weights, too: else another mechanism would be audited."""
    values = _experiment(ledger, "short", {"noise_multiplier": 3.0, "delta": 1e-5}).model_dump(mode="json")
    values["seed"] = 0  # bfloat16 is for research
    values["training"] |= {"precision": "bfloat16", "class_weights": [1e-9, 2.0]}
    experiment = Experiment.parse(values)
    assert fit(experiment).status == "finished"
    subject = AuditedRun.open(experiment.folder).subject
    assert subject is not None
    seen: list[torch.dtype] = []
    layer = next(layer for layer in subject.model.modules() if isinstance(layer, torch.nn.Conv2d))
    layer.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    found = subject.loss(subject.model, (torch.rand(2, 1, 28, 28), torch.tensor([0, 1])))
    assert seen == [torch.bfloat16] and found[0] < 1e-6 < found[1]


def test_an_honest_run_passes_and_its_record_says_so(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = RunRecord.load(trained).guarantee
    code, out, err = call(capsys, str(trained), *QUICK)
    assert code == 0, err
    assert "Consistent with the claim" in " ".join(out.split())
    record = RunRecord.load(trained)
    assert record.guarantee == claim and record.audit is not None
    assert not record.audit.refuted and record.audit.confidence == 0.99999
    assert {bound.method for bound in record.audit.bounds} >= {"noise", "sampling", "run, any mechanism"}
    assert record.audit.epsilon_lower_bound <= record.guarantee["epsilon"]
    code, out, err = call(capsys, str(trained), *QUICK, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["claim"]["delta"] == 1e-5 and answer["steps"] == 2


def test_broken_noise_is_refuted_and_the_report_warns(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs.less_noise(4.0)(monkeypatch)
    code, out, _ = call(capsys, str(trained), *QUICK)
    assert code == 1 and "REFUTED" in out
    record = RunRecord.load(trained)
    assert record.audit is not None and record.audit.refuted
    from confide.reports.view import _audit

    assert "refuted" in _audit(record)


def test_a_record_that_claims_too_little_is_refuted(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "run.json"
    values = json.loads(path.read_text())
    values["guarantee"]["epsilon"] /= 3
    path.write_text(json.dumps(values))
    code, out, _ = call(capsys, str(trained), *QUICK)
    assert code == 1 and "REFUTED" in out


def test_black_box_charges_the_ledger(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open() as book:
        before = len(book.runs())
    code, _, _ = call(capsys, str(trained), *QUICK, "--black-box")
    assert code == 0
    with Ledger.open() as book:
        assert len(book.runs()) == before + 1


def test_membership_is_shown_and_kept_nowhere(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    code, out, _ = call(capsys, str(trained), "--membership", "--json")
    assert code == 0 and json.loads(out)["private"] is False
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_what_cannot_be_audited(tmp_path: Path, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, str(tmp_path / "nothing"))
    assert code == 2 and "not a run folder" in err
    plain = _experiment(tmp_path, "plain", "none")
    fit(plain)
    code, _, err = call(capsys, str(plain.folder))
    assert code == 2 and "claims no privacy" in err and "--membership" in err
    code, out, _ = call(capsys, str(plain.folder), "--membership")
    assert code == 0 and "outside the guarantee" in " ".join(out.split())
    path = plain.folder / "run.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "status": "interrupted"}))
    code, _, err = call(capsys, str(plain.folder))
    assert code == 2 and "is interrupted" in err
    values["data"]["fingerprint"] = "another"
    path.write_text(json.dumps(values))
    code, _, err = call(capsys, str(plain.folder))
    assert code == 2 and "other data" in err


def test_a_confidence_that_is_none(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, str(trained), "--confidence", "1")
    assert code == 2 and "confidence 1.0" in err
