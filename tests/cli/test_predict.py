# SPDX-License-Identifier: Apache-2.0
"""`confide predict` and `confide export`, from the command line on files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.reports.conftest import run_maker

from confide.cli.main import run as confide
from confide.experiments.record import Calibration, RunRecord
from confide.models.registry import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with random weights, calibrated."""
    found = run_maker(tmp_path)("run", model=True, predictions=False)
    RunRecord.load(found).model_copy(update={"calibration": Calibration(temperature=2.0)}).save(found)
    return found


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two pictures of the model's size, of equal names in two folders."""
    paths = []
    for name in ("one", "two"):
        path = tmp_path / name / "scan.png"
        path.parent.mkdir()
        Image.fromarray(np.random.default_rng().integers(0, 256, (28, 28), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        confide([str(word) for word in words])
    return int(end.value.code or 0)


def test_probabilities_are_those_of_the_network(
    folder: Path, images: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("predict", folder, *images, "--json", "--out", tmp_path / "maps") == 0
    found = json.loads(capsys.readouterr().out)
    net = build("resnet9", in_channels=1, classes=2, widths=[8, 16, 32]).eval()
    net.load_state_dict(load_file(folder / "model.safetensors"))
    for row, path in zip(found, images, strict=True):
        pixels = torch.tensor(np.asarray(Image.open(path))[None, None] / 255, dtype=torch.float32)
        with torch.no_grad():
            scores = torch.softmax(net((pixels - 0.5) / 0.25) / 2.0, dim=1)[0]
        assert row["probability"] == pytest.approx(float(scores.max()), abs=1e-5)
        assert row["class"] == ("normal", "pneumonia")[int(scores.argmax())]
        assert row["calibrated"] is True
        with Image.open(row["overlay"]) as drawn:
            assert drawn.size == (224, 224) and drawn.mode == "RGB"
    assert {Path(row["overlay"]).name for row in found} == {"scan-saliency.png", "scan-2-saliency.png"}


def test_for_people(folder: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", folder, images[0]) == 0
    said = capsys.readouterr().out
    assert "scan.png" in said and "probability" in said and "No approval for use on patients" in said


@pytest.mark.parametrize(
    ("content", "text"), [(None, "there is no such file"), (b"text", "no image that can be read")]
)
def test_files_that_are_no_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, text: str
) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    assert run("predict", folder, path) == 2
    said = capsys.readouterr().err
    assert text in said and "bad.png" in said and "Traceback" not in said


def test_export_says_what_was_written(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "deployed.safetensors"
    assert run("export", folder, "--format", "safetensors", "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(out) and found["bytes"] == out.stat().st_size
    assert "PLD" in found["guarantee"]
    assert run("export", folder, "--format", "tflite") == 2
    assert "Choose one of: onnx, torchscript, safetensors" in capsys.readouterr().err


def test_report_of_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", tmp_path / "nothing") == 2
    said = capsys.readouterr().err
    assert "is not a run folder" in said and "nothing" in said


def test_report_writes_page_data_and_card(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("report", folder, "--out", out) == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "report.html",
        "report.json",
        "model-card.md",
    ]
    assert run("report", folder, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["record"]["name"] == "run"
