# SPDX-License-Identifier: Apache-2.0
"""Exported models, run by their own runtimes from the file alone, against the network in plain torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.reports.conftest import run_maker

from confide.errors import ConfideError, RunError
from confide.experiments import deploy
from confide.experiments.deploy import Format, export_run
from confide.experiments.record import Calibration, Run, RunRecord, load_run
from confide.models.registry import build

OPTIONS: dict[str, dict[str, Any]] = {
    "ordinary": {"widths": [4, 4, 8]},
    "steerable": {"widths": [4, 4, 8], "group": "C4"},
}


def run_of(place: Path, kind: str) -> Run:
    """A run with random weights and a temperature."""
    folder = run_maker(place)(kind, predictions=False)
    record = RunRecord.load(folder)
    model = record.model.model_copy(update={"options": OPTIONS[kind]})
    record.model_copy(update={"model": model, "calibration": Calibration(temperature=1.7)}).save(folder)
    net = build("resnet9", in_channels=1, classes=2, **OPTIONS[kind])
    save_file({name: value.clone() for name, value in net.state_dict().items()}, folder / "model.safetensors")
    return load_run(folder)


def expected(run: Run, pixels: torch.Tensor) -> np.ndarray:
    """Normalise by 0.5 and 0.25, network, temperature 1.7, softmax: written out."""
    net = build("resnet9", in_channels=1, classes=2, **run.record.model.options).eval()
    net.load_state_dict(load_file(run.folder / "model.safetensors"))
    with torch.no_grad():
        return torch.softmax(net((pixels - 0.5) / 0.25) / 1.7, dim=1).numpy()


@pytest.mark.parametrize("kind", ["ordinary", "steerable"])
def test_onnx_by_onnxruntime(tmp_path: Path, kind: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    run = run_of(tmp_path, kind)
    path = export_run(run, Format.ONNX)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        pixels = torch.rand(batch, 1, 28, 28)
        [found] = session.run(None, {"pixels": pixels.numpy()})
        np.testing.assert_allclose(found, expected(run, pixels), atol=1e-4)
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"]) == ["normal", "pneumonia"] and notes["temperature"] == "1.7"
    assert run.record.guarantee is not None and notes["guarantee"] == run.record.guarantee["text"]
    raw = path.read_bytes()
    assert str(tmp_path).encode() not in raw and b"site-packages" not in raw and b"/src/confide" not in raw


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["ordinary", "steerable"])
def test_torchscript_by_torch_alone(tmp_path: Path, kind: str) -> None:
    run = run_of(tmp_path, kind)
    path = export_run(run, Format.TORCHSCRIPT, tmp_path / "out" / "model.pt")
    extra = {"confide.json": ""}
    loaded = torch.jit.load(str(path), _extra_files=extra)
    pixels = torch.rand(3, 1, 28, 28)
    np.testing.assert_allclose(loaded(pixels).detach().numpy(), expected(run, pixels), atol=1e-4)
    assert json.loads(extra["confide.json"])["name"] == kind


def test_safetensors_hold_plain_convolutions_and_the_guarantee(tmp_path: Path) -> None:
    run = run_of(tmp_path, "steerable")
    path = export_run(run, Format.SAFETENSORS)
    assert path.name == "exported.safetensors"
    with safe_open(path, "pt") as file:
        assert "PLD" in file.metadata()["guarantee"] or "pld" in file.metadata()["guarantee"]
        kernels = [name for name in file.keys() if file.get_tensor(name).ndim == 4 and "weight" in name]  # noqa: SIM118
    assert kernels, "steerable layers are written out"


def test_a_file_that_answers_otherwise_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, "ordinary")
    real = deploy._write_safetensors

    def wrong(model: Any, example: Any, notes: Any, path: Path) -> None:
        real(model, example, notes, path)
        values = load_file(path)
        save_file({name: value + 0.05 for name, value in values.items()}, path)

    monkeypatch.setitem(deploy._WRITERS, Format.SAFETENSORS, wrong)
    with pytest.raises(ConfideError, match=r"differs from the model by .* It was removed"):
        export_run(run, Format.SAFETENSORS)
    assert sorted(p.name for p in run.folder.iterdir()) == ["metrics.jsonl", "model.safetensors", "run.json"]


def test_the_weights_of_the_run_are_never_overwritten(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ordinary")
    before = (run.folder / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="weights file of the run itself"):
        export_run(run, Format.SAFETENSORS, run.folder / "model.safetensors")
    assert (run.folder / "model.safetensors").read_bytes() == before


def test_what_is_missing_or_does_not_fit_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ordinary")
    weights = run.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(RunError, match=r"model\.safetensors: is damaged"):
        export_run(run, Format.SAFETENSORS)
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(RunError, match=r"does not fit the model that run\.json names"):
        export_run(run, Format.SAFETENSORS)
    weights.unlink()
    with pytest.raises(RunError, match="is missing"):
        export_run(run, Format.SAFETENSORS)
