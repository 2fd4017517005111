# SPDX-License-Identifier: Apache-2.0
"""The list of keys is the schema's, and the documentation holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.errors import ConfigError
from confide.experiments.config import Experiment
from confide.experiments.keys import keys, markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "experiments.md"


def test_every_key_is_known_to_the_experiment_and_explained() -> None:
    found = {key.name: key for key in keys()}
    assert {"name", "data.name", "privacy.clipping.bound", "training.optimizer.lr", "out"} <= found.keys()
    for name, key in found.items():
        assert key.meaning, f"{name} has no description"
        top = name.partition(".")[0]
        assert top in Experiment.model_fields


def test_a_misspelt_key_finds_each_of_them() -> None:
    # The error message and the list draw on one schema.
    with pytest.raises(ConfigError, match="did you mean 'physical_batch_size'"):
        Experiment.parse({"training": {"physical_batch_siz": 3}})


def test_the_documentation_is_current() -> None:
    assert markdown() in PAGE.read_text(), (
        "run: confide train --keys, and put the table into docs/experiments.md"
    )
