# SPDX-License-Identifier: Apache-2.0
"""Every wrong key and value of an experiment is named, with what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from confide.errors import ConfigError
from confide.experiments.config import Experiment

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.yaml"


def demo() -> dict[str, Any]:
    return yaml.safe_load(DEMO.read_text())


def test_an_experiment_survives_its_own_yaml(tmp_path: Path) -> None:
    experiment = Experiment.load(DEMO)
    (tmp_path / "again.yaml").write_text(experiment.to_yaml())
    assert Experiment.load(tmp_path / "again.yaml") == experiment


def test_one_over_a_hundred_thousand_may_be_written_as_people_write_it() -> None:
    # YAML 1.1 reads 1e-5 as a string.
    assert isinstance(demo()["privacy"]["delta"], str)
    experiment = Experiment.load(DEMO)
    assert not isinstance(experiment.privacy, str) and experiment.privacy.delta == 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trainig": {}}, "unknown key 'trainig': did you mean 'training'"),
        ({"privacy": {"epsilon": 3, "delta": 1e-5, "epsilonn": 2}}, "did you mean 'epsilon'"),
        (
            {"privacy": {"epsilon": 3, "delta": 1e-5, "clipping": {"kind": "flat", "bond": 1}}},
            "unknown key 'privacy.clipping.bond': did you mean 'bound'",
        ),
        ({"privacy": {"delta": 1e-5}}, "give epsilon, noise_multiplier, or both"),
        ({"privacy": {"epsilon": 0, "delta": 1e-5}}, "privacy.epsilon = 0: input should be greater than 0"),
        ({"privacy": {"epsilon": float("nan"), "delta": 1e-5}}, "privacy.epsilon"),
        ({"privacy": {"epsilon": 3}}, "'privacy.delta' is missing"),
        ({"privacy": "off"}, "privacy = 'off'"),
        ({"training": {"batch_size": 8}}, "give one of epochs and steps"),
        ({"training": {"batch_size": 8, "epochs": 1, "steps": 1}}, "give one of epochs and steps"),
        ({"training": {"batch_size": 0, "epochs": 1}}, "training.batch_size = 0"),
        ({"name": "../elsewhere"}, "name = '../elsewhere'"),
        ({"seed": -1}, "seed = -1"),
        ({"evaluation": {"test": "sometimes"}}, "evaluation.test = 'sometimes'"),
    ],
)
def test_wrong_keys_and_values(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.parse(demo() | change)
    assert said in str(caught.value)


def test_every_problem_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.parse(demo() | {"wrong": 1, "seed": -1})
    assert "unknown key 'wrong'" in str(caught.value) and "seed = -1" in str(caught.value)


def test_overrides() -> None:
    experiment = Experiment.load(
        DEMO, ["training.epochs=2", "model.widths=[4, 8, 8]", "privacy=none", "evaluation.bootstrap=0"]
    )
    assert experiment.training.epochs == 2
    assert experiment.model.options == {"widths": [4, 8, 8]}
    assert experiment.privacy == "none" and experiment.evaluation.bootstrap == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs", "is not key=value"),
        ("name.inner=1", "holds a value, not a section"),
        ("training.epochs=[", "is not a value"),
    ],
)
def test_wrong_overrides(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Experiment.load(DEMO, [override])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read the experiment file"),
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- 1", "holds no keys"),
    ],
)
def test_files_that_are_no_experiment(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "experiment.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        Experiment.load(path)
    assert str(path) in str(caught.value)
