# SPDX-License-Identifier: Apache-2.0
"""Every example can be run: its keys, data set, model and plan exist."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from confide.data.entries import ENTRIES
from confide.experiments.config import Experiment
from confide.experiments.sections import PrivacyConfig
from confide.models.registry import build

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_name_what_exists(path: Path) -> None:
    experiment = Experiment.load(path)
    info = ENTRIES[experiment.data.name]
    assert experiment.data.unit in (None, *info.units)
    assert isinstance(experiment.privacy, PrivacyConfig)
    options = experiment.model.options
    build(experiment.model.name, in_channels=info.channels, classes=len(info.classes), **options)


def test_a_loop_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_loop.py"))["main"](steps=10)
    assert "step 10: released loss" in (out := capsys.readouterr().out)
    assert "-DP per image; neighbours: add-or-remove-one; accountant: PLD; sampling: poisson" in out
