# SPDX-License-Identifier: Apache-2.0
"""`confide train` as a user meets it: what it prints, what it leaves, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.isolation import isolate

from confide.cli.main import run


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path / "own", monkeypatch)


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for split, rows in (("train", 60), ("val", 12), ("test", 12)):
        labels = rng.integers(0, 2, rows)
        pixels = rng.integers(0, 80, (rows, 16, 16)) + labels[:, None, None] * 120
        found |= {
            f"{split}_images": pixels.astype(np.uint8),
            f"{split}_labels": labels[:, None].astype(np.uint8),
        }
    return found


def experiment(tmp_path: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": str(tmp_path / "tiny.npz")},
        "model": {"name": "resnet9", "widths": [4, 4, 8]},
        "privacy": {"noise_multiplier": 4.0, "delta": 1e-3},
        "training": {"batch_size": 10, "steps": 4},
        "evaluation": {"bootstrap": 20},
        "out": str(tmp_path / "runs"),
        "device": "cpu",
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def confide(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    return int(ended.value.code or 0)


def test_a_run_prints_scores_the_whole_guarantee_and_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "tiny.npz", **arrays())
    assert confide("train", str(experiment(tmp_path))) == 0
    out, err = capsys.readouterr()
    words = " ".join(out.split())
    for said in ("accuracy", "balanced accuracy", "AUC", "always", "would have come out almost the same"):
        assert said in words, said
    # ε never stands alone: δ, unit, accountant and sampling are beside it, here and above the progress.
    assert re.search(
        r"\(ε = [\d.]+, δ = 0\.001\)-DP per image; neighbours: add-or-remove-one; accountant: PLD", words
    )
    assert "sampling: poisson" in words
    assert re.search(r"ε below is at δ = 0\.001, per image, poisson sampling, by PLD", " ".join(err.split()))
    page = tmp_path / "runs" / "tiny" / "report.html"
    assert str(page) in words.replace(" ", "") or str(page) in out.replace("\n", "")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_json_is_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "tiny.npz", **arrays())
    assert confide("train", str(experiment(tmp_path)), "--json", "--no-report") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())
    assert printed["guarantee"]["unit"] == "image"


def test_an_exhausted_budget_exits_with_three(tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **arrays())
    path = experiment(tmp_path, privacy={"noise_multiplier": 4.0, "epsilon": 0.12, "delta": 1e-3})
    assert confide("train", str(path), "--quiet", "--no-report") == 3
    record = json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())
    assert record["status"] == "exhausted" and record["spent"]["epsilon"] <= 0.12


def spoilt(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], list[str]]:
    def prepare(tmp_path: Path) -> list[str]:
        found = arrays()
        change(found)
        np.savez(tmp_path / "tiny.npz", **found)
        return []

    return prepare


def nan_images(found: dict[str, Any]) -> None:
    images = found["train_images"] / 255.0
    images[3, 2, 2] = np.nan
    found["train_images"] = images.astype(np.float32)


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no file": (lambda tmp_path: [], r"no data set .*tiny\.npz"),
    "no keys": (spoilt(lambda a: a.pop("val_images")), "val_images"),
    "dtype": (spoilt(lambda a: a.update(train_images=a["train_images"].astype("<U3"))), "train_images"),
    "shape": (spoilt(lambda a: a.update(train_images=a["train_images"][:, 0])), "train_images"),
    "labels out of range": (
        spoilt(lambda a: a.update(train_labels=a["train_labels"].astype(int) - 1)),
        "label",
    ),
    "NaN": (spoilt(nan_images), "NaN"),
    "epsilon": (lambda t: ["privacy.epsilon=-1", "privacy.noise_multiplier=null"], r"privacy\.epsilon = -1"),
    "delta": (lambda t: ["privacy.delta=0.02"], r"delta 0\.02 is not below 1/n"),
    "batch": (lambda t: ["training.batch_size=61"], "a batch of 61 is larger than the data set"),
    "key": (lambda t: ["training.epoch=1"], "unknown key 'training.epoch': did you mean 'epochs'"),
    "model": (lambda t: ["model.name=resnet10"], "no model 'resnet10'"),
    "option": (lambda t: ["model.width=3"], "no option 'width'"),
    "unit": (lambda t: ["data.unit=patient"], "no patient ids"),
    "device": (lambda t: ["device=cuda:9"], "no device 'cuda:9'"),
    "sampling": (lambda t: ["privacy.sampling=balls-in-bins"], "balls-in-bins"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_two_and_leaves_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, said = BAD[case]
    if case not in ("no file",):
        np.savez(tmp_path / "tiny.npz", **arrays())
    overrides = prepare(tmp_path)
    words = [word for override in overrides for word in ("--set", override)]
    assert confide("train", str(experiment(tmp_path)), "--quiet", *words) == 2
    out, err = capsys.readouterr()
    assert re.search(said, " ".join(err.split())), err
    assert "Traceback" not in err and not out
    assert not (tmp_path / "runs").exists()


def test_an_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "tiny.npz", **arrays())
    (tmp_path / "file").write_text("in the way")
    path = experiment(tmp_path, out=str(tmp_path / "file" / "runs"))
    assert confide("train", str(path), "--quiet") == 2
    assert "cannot write the run's folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"
