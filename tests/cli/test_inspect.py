# SPDX-License-Identifier: Apache-2.0
"""`confide inspect`: names, factories, run folders, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from confide.cli.inspect import load, model_options
from confide.cli.main import build_app
from confide.equivariant import SteerableConv2d
from confide.errors import ConfigError, InputError, RunError


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app(["inspect"]), ["inspect", *words])


def test_a_model_of_ours_is_fine() -> None:
    result = run("resnet9", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["findings"] == []
    assert answer["blocked"] is False
    assert answer["input_shape"][:2] == [3, 3]


def test_batch_norm_from_a_factory_exits_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_model.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run("lab_model:make", "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["layer"] == "1"
    assert finding["severity"] == "must change"
    assert "repair" in finding["remedy"]


def test_the_table_names_the_layer_and_the_remedy() -> None:
    result = run("torch.nn:BatchNorm2d")
    assert isinstance(result.exception, InputError), "the factory needs an argument, and that is said"


def test_a_shape_that_does_not_fit_is_the_users_mistake() -> None:
    assert isinstance(run("resnet9", "--shape", "5,32,32").exception, InputError)
    assert isinstance(run("resnet9", "--shape", "3,big").exception, InputError)
    assert run("resnet9", "--shape", "3x40x40").exit_code == 0


def test_options_of_a_model_given_by_name() -> None:
    """A group whose basis is another, and widths, reach the model that is looked at."""
    result = run("resnet9", "--group", "D4", "--set", "widths=[2, 2, 4]", "--set", "restrict=false", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["findings"] == []
    built = load("resnet9", 1, 2, model_options(["widths=[2, 2, 4]", "group=O2"]))
    groups = {str(m.in_type.group) for m in built.modules() if isinstance(m, SteerableConv2d)}
    assert groups == {"O(2)"}
    assert max(m.out_type.multiplicity for m in built.modules() if isinstance(m, SteerableConv2d)) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet9", "--group", "C0"], "no N = 0"),
        (["resnet9", "--group", "Q4"], "no group 'Q4'"),
        (["vgg11", "--group", "C4"], "no option 'group'"),
        (["resnet9", "--set", "width=[2,2,2]"], "widths"),
        (["resnet9", "--set", "widths"], "not key=value"),
        (["resnet9", "--set", "widths=[2,"], "not a value"),
        (["resnet9", "--group", "C4", "--set", "group=C8"], "given twice"),
        (["torch.nn:Identity", "--group", "C4"], "cannot be set"),
    ],
)
def test_options_that_mean_nothing_are_refused(words: list[str], said: str) -> None:
    error = run(*words).exception
    assert isinstance(error, InputError | ConfigError)
    assert said in str(error)


def test_unknown_models_are_named() -> None:
    assert isinstance(run("resnet999").exception, ConfigError)
    assert isinstance(run("no_such_package_here:make").exception, InputError)


def test_a_run_folder_names_its_model(tmp_path: Path) -> None:
    record = {
        "model": {"name": "resnet9", "options": {"widths": [8, 8, 8]}},
        "data": {"classes": ["a", "b"], "channels": 1},
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    result = run(str(tmp_path), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["input_shape"][1] == 1
    assert "A run keeps" in str(run(str(tmp_path), "--group", "C4").exception)
    (tmp_path / "run.json").write_text("{}")
    assert isinstance(run(str(tmp_path)).exception, RunError)
