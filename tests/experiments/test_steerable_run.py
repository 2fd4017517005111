# SPDX-License-Identifier: Apache-2.0
"""A private C4 ResNet-9 from `confide train` to an ordinary network and to ONNX that predict the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.isolation import isolate

from confide.cli.main import run
from confide.equivariant import SteerableConv2d, export
from confide.experiments.record import load_run
from confide.experiments.trained import trained_model

pytestmark = pytest.mark.slow


def confide(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert not ended.value.code


@pytest.mark.parametrize(("data", "channels", "classes"), [("pneumoniamnist", 1, 2), ("bloodmnist", 3, 8)])
def test_a_private_steerable_network_from_training_to_export(
    data: str,
    channels: int,
    classes: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if data == "bloodmnist":
        monkeypatch.setenv("CONFIDE_DATA", str(request.getfixturevalue("shared_data")))
    isolate(tmp_path / "own", monkeypatch)
    experiment: dict[str, Any] = {
        "name": f"steerable-{data}",
        "data": {"name": data, "unit": "image"},
        "model": {"name": "resnet9", "widths": [8, 16, 32], "group": "C4", "restrict": False},
        "privacy": {"epsilon": 7.42, "delta": 1e-5, "clipping": {"kind": "flat", "bound": 1.5}},
        "training": {"batch_size": 128, "steps": 4, "physical_batch_size": 64},
        "evaluation": {"bootstrap": 20},
        "seed": 0,
        "out": str(tmp_path / "runs"),
        "device": "cpu",
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    confide("train", str(path))
    (folder,) = (tmp_path / "runs").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["guarantee"]["epsilon"] <= 7.42 and record["guarantee"]["delta"] == 1e-5

    model = trained_model(load_run(folder))
    plain = export(model)
    assert any(isinstance(m, SteerableConv2d) for m in model.modules())
    assert not any(isinstance(m, SteerableConv2d) for m in plain.modules())
    images = torch.rand(8, channels, 28, 28)
    with torch.no_grad():
        scores, exported = model(images), plain(images)
        turned = model(torch.rot90(images, 1, (2, 3)))
    assert scores.shape == (8, classes)
    torch.testing.assert_close(exported, scores, rtol=0, atol=1e-5 * float(scores.abs().max()))
    torch.testing.assert_close(turned, scores, rtol=0, atol=1e-4 * float(scores.abs().max()))

    runtime = pytest.importorskip("onnxruntime", reason="the `export` extra is not installed")
    confide("export", str(folder), "--format", "onnx", "--out", str(tmp_path / "model.onnx"))
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    form = record["model"]
    mean, std = (torch.tensor(form[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = model((images - mean) / std).double().numpy()
    np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))
    # The file divides by a temperature of its own: scores agree up to one factor and a shift a row.
    logs = np.log(found.astype(np.float64))
    logs, wanted = (rows - rows.mean(1, keepdims=True) for rows in (logs, wanted))
    factor = (logs * wanted).sum() / (logs * logs).sum()
    np.testing.assert_allclose(logs * factor, wanted, atol=1e-3 * np.abs(wanted).max())
