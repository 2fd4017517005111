# SPDX-License-Identifier: Apache-2.0
"""Grids: which cells there are, what they are called, and what names them for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from confide.errors import ConfigError
from confide.experiments.sweep_grid import Grid

BASE: dict[str, Any] = {
    "data": {"name": "pneumoniamnist"},
    "model": {"name": "resnet9", "widths": [2, 2, 2]},
    "privacy": {"epsilon": 3.0, "delta": 1e-5},
    "training": {"batch_size": 16, "steps": 2},
}


def grid(**values: Any) -> Grid:
    return Grid.parse({"name": "g", "base": BASE, **values}, where=Path("g.yaml"))


def test_cells_are_the_product_of_the_axes_in_order() -> None:
    found = grid(
        axes={
            "training.optimizer.lr": [1e-3, 3e-3],
            "privacy": {"private": {}, "plain": {"privacy": "none"}},
        }
    ).cells()
    assert [cell.name for cell in found] == ["0.001-private", "0.001-plain", "0.003-private", "0.003-plain"]
    assert [cell.experiment.training.optimizer.lr for cell in found] == [1e-3, 1e-3, 3e-3, 3e-3]
    assert found[1].experiment.privacy == "none"
    assert found[0].labels == {"training.optimizer.lr": "0.001", "privacy": "private"}


def test_every_cell_is_a_trial_of_the_grid_in_the_ledger() -> None:
    assert grid().cells()[0].experiment.study == "g"


def test_a_cell_keeps_its_name_and_digest_when_an_axis_grows() -> None:
    before = grid(axes={"training.steps": [2]}).cells()[0]
    after = grid(axes={"training.steps": [1, 2]}).cells()[1]
    assert (before.name, before.digest) == (after.name, after.digest)


def test_the_digest_tells_cells_apart_by_what_decides_their_result() -> None:
    cells = grid(axes={"seed": [1, 2]}).cells()
    assert cells[0].digest != cells[1].digest
    perturbed = grid(axes={"n": {"a": {"cell.perturb.scale": 1}, "b": {"cell.perturb.scale": 2}}}).cells()
    assert perturbed[0].digest != perturbed[1].digest
    # Memory and threads change no result.
    free = grid(axes={"training.physical_batch_size": [8, 16]}).cells()
    assert free[0].digest == free[1].digest


def test_rules_apply_where_labels_agree_and_scales_come_last() -> None:
    found = grid(
        axes={"size": {"s": {}, "l": {}}},
        rules=[{"where": {"size": "l"}, "set": {"training.steps": 7}}],
        scales={"quick": {"axes": {"size": ["l"]}, "set": {"training.batch_size": 4}}},
    )
    assert [cell.experiment.training.steps for cell in found.cells()] == [2, 7]
    (quick,) = found.cells("quick")
    assert (quick.experiment.training.steps, quick.experiment.training.batch_size) == (7, 4)


def test_a_scale_outranks_an_axis_and_a_rule() -> None:
    found = grid(
        axes={"a": {"x": {"training.steps": 3}}},
        rules=[{"where": {"a": "x"}, "set": {"training.batch_size": 4}}],
        scales={"quick": {"set": {"training.steps": 5, "training.batch_size": 6}}},
    )
    (plain,), (quick,) = found.cells(), found.cells("quick")
    assert (plain.experiment.training.steps, plain.experiment.training.batch_size) == (3, 4)
    assert (quick.experiment.training.steps, quick.experiment.training.batch_size) == (5, 6)


def test_none_takes_a_key_away() -> None:
    (cell,) = grid(scales={"x": {"set": {"training.steps": None, "training.epochs": 2}}}).cells("x")
    assert (cell.experiment.training.steps, cell.experiment.training.epochs) == (None, 2)


def test_settings_of_privacy_leave_cells_without_privacy_alone() -> None:
    found = grid(
        axes={"p": {"plain": {"privacy": "none"}, "private": {}}},
        scales={"x": {"set": {"privacy.epsilon": None, "privacy.noise_multiplier": 2.0}}},
    ).cells("x")
    assert found[0].experiment.privacy == "none"
    assert found[1].experiment.model_dump()["privacy"]["noise_multiplier"] == 2.0


def test_skipped_combinations_are_no_cells() -> None:
    found = grid(axes={"a": {"x": {}, "y": {}}, "b": {"u": {}, "v": {}}}, skip=[{"a": "y", "b": ["u", "v"]}])
    assert [cell.name for cell in found.cells()] == ["x-u", "x-v"]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"axes": {"training.step": [1]}}, "did you mean 'steps'"),
        ({"axes": {"a": {"x y": {}}}}, "cannot be a label"),
        ({"axes": {"a": 3}}, "neither"),
        ({"axes": {"a": {"x": {"cell.perturb.scale": -1}}}}, "greater than 0"),
        ({"axes": {"a": {"x": {"cell.wrong": 1}}}}, "cell.wrong"),
        ({"axes": {"a": {"x-y": {}, "x": {}}, "b": {"z": {}, "y-z": {}}}}, "two cells are called 'x-y-z'"),
        ({"nonsense": 1}, "nonsense"),
        ({"axes": {"a": {"x": {"data.name.deeper": 1}}}}, "holds a value, not a section"),
    ],
)
def test_a_wrong_grid_is_refused_by_name(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word.replace("(", r"\(")):
        grid(**values).cells()


def test_an_unknown_scale_or_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="no scale 'huge'"):
        grid(scales={"quick": {}}).cells("huge")
    with pytest.raises(ConfigError, match="which the grid has not"):
        grid(axes={"a": {"x": {}}}, scales={"quick": {"axes": {"a": ["z"]}}}).cells("quick")


def test_a_base_may_be_the_path_of_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"name": "b", **BASE}))
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "g", "base": "base.yaml", "axes": {"seed": [4]}}))
    (cell,) = Grid.load(path).cells()
    assert (cell.experiment.seed, cell.experiment.training.steps) == (4, 2)


@pytest.mark.parametrize("text", ["[1, 2", "just words", ""])
def test_a_file_that_is_no_grid_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        Grid.load(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Grid.load(tmp_path / "absent.yaml")
