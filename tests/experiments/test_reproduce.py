# SPDX-License-Identifier: Apache-2.0
"""The published tables and figures: complete, readable, honest about what was run, and runnable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from confide.data.catalog import find
from confide.errors import ConfigError, RunError
from confide.experiments import reproduce
from confide.experiments.claims import Claim
from confide.experiments.reproduce_page import page
from confide.experiments.sweep_local import InProcess
from confide.experiments.sweep_record import CellRecord
from confide.experiments.tables import TableSpec, figure, published
from confide.models.registry import build

NAMES = (
    "deepee-benchmark",
    "deepee-liver",
    "deepee-pneumonia",
    "hoelzl-figure1",
    "hoelzl-figure2",
    "hoelzl-table1",
    "singh-figure2",
    "singh-figure3",
    "singh-figure4",
)
ROOT = Path(__file__).parents[2]


def test_every_published_name_is_there() -> None:
    assert reproduce.names() == NAMES
    with pytest.raises(ConfigError, match="no published table"):
        reproduce.load("hoelzl-table2")


@pytest.mark.parametrize("name", NAMES)
def test_every_grid_is_whole(name: str) -> None:
    """Its scales have cells; its tables and claims name axes and figures that exist."""
    grid = reproduce.load(name)
    assert grid.name == name
    assert grid.title and grid.source and grid.checklist and grid.claims
    record = CellRecord.model_validate(
        {
            "grid": name, "cell": "c", "labels": {}, "digest": "", "status": "finished",
            "started": "2026-01-01T00:00:00Z", "seconds": 0, "experiment": {},
        }
    )  # fmt: skip
    for scale in reproduce.SCALES:
        assert grid.scales[scale].text
        assert grid.cells(scale)
    axes: set[str] = set(grid.axes)
    for values in grid.tables:
        spec = TableSpec.model_validate(values)
        assert {*spec.rows, *spec.columns, *spec.where} <= axes
        for word in spec.figures.values():
            figure(record, word)
    for values in grid.claims:
        claim = Claim.model_validate(values)
        assert claim.test is not None or claim.verdict
        if claim.test is not None:
            figure(record, claim.test.figure)
            named = {*claim.test.left, *claim.test.right, *([claim.test.by] if claim.test.by else [])}
            assert named <= axes
    if grid.published:
        assert published(grid.published)


@pytest.mark.parametrize(("paper", "last"), [("hoelzl", 15), ("singh", 10)])
def test_each_numbered_item_of_a_paper_is_on_one_of_its_pages(paper: str, last: int) -> None:
    """The numbers are those of the checklists in the reference notes."""
    listed = {
        str(entry["item"])
        for name in NAMES
        if name.startswith(paper)
        for entry in reproduce.load(name).checklist
    }
    assert listed == {str(number) for number in range(1, last + 1)}


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_has_a_verdict_also_where_nothing_was_run(name: str) -> None:
    grid = reproduce.load(name)
    after = page(grid, {}).partition("## Claims")[2].partition("## Checklist")[0]
    rows = [line.split(" | ") for line in after.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(grid.claims)
    for row, values in zip(rows, grid.claims, strict=True):
        assert row[-1] == f"{values.get('verdict', 'not run')} |"


def test_table_1_has_the_published_cells_and_budget() -> None:
    cells = reproduce.load("hoelzl-table1").cells("paper")
    published_groups = {"e", "C1", "C4", "C8", "C16", "O2"}
    one_seed = [c for c in cells if c.labels["seed"] == "s0" and c.labels["group"] in published_groups]
    assert len(one_seed) == 72
    baseline = [c for c in cells if c.labels["group"] == "ResNet50"]
    assert len(baseline) == 6  # three data sets, with and without DP
    assert {c.experiment.model.name for c in baseline} == {"resnet50"}
    for scale in ("quick", "paper"):
        for cell in reproduce.load("hoelzl-table1").cells(scale):
            privacy = cell.experiment.privacy
            if cell.labels["privacy"] == "private":
                assert privacy != "none"
                assert (privacy.epsilon, privacy.delta) == (7.42, 1e-5)


@pytest.mark.parametrize(
    ("name", "cell", "parameters", "published_parameters", "tolerance"),
    [
        ("hoelzl-table1", "colon-C4-without-private-s0", 37_300, 35_000, 0.08),
        ("hoelzl-table1", "colon-O2-without-private-s0", 238_000, 240_000, 0.02),
        ("hoelzl-figure1", "colon-e-x8", 2_440_000, 2_500_000, 0.03),
        ("hoelzl-figure1", "colon-C4-x8", 2_540_000, 2_300_000, 0.11),
    ],
)
def test_parameter_counts_are_the_published_ones_or_near(
    name: str, cell: str, parameters: int, published_parameters: int, tolerance: float
) -> None:
    (found,) = [c for c in reproduce.load(name).cells("paper") if c.name == cell]
    model = build("resnet9", in_channels=3, classes=2, **found.experiment.model.options)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(parameters, rel=0.01)
    assert count == pytest.approx(published_parameters, rel=tolerance)


def test_figure_4_has_the_published_columns() -> None:
    cells = reproduce.load("singh-figure4").cells("paper")
    trained = [cell for cell in cells if cell.labels["what"] == "train"]
    assert not any("at_224" in cell.name for cell in trained)
    assert len(trained) == 14  # two data sets, seven columns; training and test accuracy of each: 28
    for cell in trained:
        training = cell.experiment.training
        assert (training.optimizer.name, training.optimizer.lr) == ("sgd", 0.01)
        assert (training.batch_size, training.epochs) == (128, 50)


def test_figure_4_has_two_columns_at_224_that_differ_from_the_small_ones_in_size_alone() -> None:
    cells = {cell.name: cell.experiment for cell in reproduce.load("singh-figure4").cells("quick")}
    for column in ("original", "dpsgd1"):
        small, large = (cells[f"train-pneumonia-{column}{suffix}"] for suffix in ("", "_at_224"))
        assert (small.data.size, large.data.size) == (64, 224)
        assert large.model == small.model
        assert large.privacy == small.privacy
        assert large.training == small.training


def test_figure_4_states_the_epsilon_that_its_columns_really_have(tmp_path: Path) -> None:
    """Against the reference values of the schedule: PLD, q = 128/5216, 2,038 steps, δ = 1e-5."""
    found = reproduce.reproduce(
        "singh-figure4",
        "quick",
        tmp_path,
        InProcess(),
        only=["account-pneumonia-dpsgd4", "account-fundus-ldp2"],
    )
    by = {record.cell: record for record in found.records}
    private = figure(by["account-pneumonia-dpsgd4"], "figure:guarantee.epsilon")
    assert private == pytest.approx(1.066, abs=5e-3)
    assert figure(by["account-pneumonia-dpsgd4"], "figure:group_epsilon.2") == pytest.approx(2.3, abs=0.05)
    # β = 2 on three channels of 256×256: ε = 3/2 a pixel, 65,536 times that an image.
    assert figure(by["account-fundus-ldp2"], "figure:local_dp.pixel") == 1.5
    assert figure(by["account-fundus-ldp2"], "figure:local_dp.image") == 98_304


SMOKE: dict[str, Any] = {
    "deepee-benchmark": 2,
    "deepee-liver": 4,
    "deepee-pneumonia": 2,
    "hoelzl-figure1": 2,
    "hoelzl-figure2": 1,
    "hoelzl-table1": 6,
    "singh-figure2": 1,
    "singh-figure3": 1,
    "singh-figure4": 5,
}


def liver_slices(folder: Path) -> None:
    """A file in the form of the CHAOS slices: noise around a brighter disc, which is the mask."""
    rng = np.random.default_rng(0)
    height, width = np.ogrid[:128, :128]
    arrays: dict[str, Any] = {}
    for split, rows in (("train", 24), ("val", 6)):
        centres = rng.integers(40, 88, (rows, 2, 1, 1))
        masks = (height - centres[:, 0]) ** 2 + (width - centres[:, 1]) ** 2 < 24**2
        noise = rng.integers(0, 80, masks.shape)
        arrays[f"{split}_images"] = (noise + 120 * masks).astype(np.uint8)
        arrays[f"{split}_masks"] = masks.astype(np.uint8)
    folder.mkdir()
    np.savez(folder / "chaos_liver_mr_128.npz", **arrays)


# All nine together took 73 s of CPU (limit: three minutes), children included: they belong to every CI run.
@pytest.mark.parametrize("name", NAMES)
def test_every_name_runs_at_smoke_scale(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "deepee-liver" and find("chaos_liver_mr_128") is None:
        liver_slices(tmp_path / "stand-in")
        monkeypatch.setenv("CONFIDE_DATA", str(tmp_path / "stand-in"))
    found = reproduce.reproduce(name, "smoke", tmp_path, InProcess())
    assert [record.error for record in found.records if record.error] == []
    assert len(found.records) == SMOKE[name]
    assert found.page is None
    assert not (tmp_path / "docs").exists()


def test_a_page_says_what_has_not_been_run() -> None:
    grid = reproduce.load("hoelzl-table1")
    text = page(grid, {"quick": [], "paper": []})
    assert "Not run yet: 0 of 36 cells" in text
    assert "Nothing has been run yet" in text
    assert "| not run |" in text


def test_a_page_is_made_of_records_of_this_very_grid(tmp_path: Path) -> None:
    grid = reproduce.load("singh-figure4")
    only = ["account-pneumonia-ldp1"]
    found = reproduce.reproduce(grid.name, "quick", tmp_path, InProcess(), only=only)
    assert found.page is not None
    assert "196608.00" in found.page.read_text(encoding="utf-8")
    path = found.places.record("account-pneumonia-ldp1")
    path.write_text(path.read_text(encoding="utf-8").replace(found.records[0].digest, "f" * 64))
    with pytest.raises(RunError, match="another cell"):
        reproduce.committed(grid, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_each_committed_page_is_the_one_its_records_make(name: str) -> None:
    committed = ROOT / "docs" / "results" / f"{name}.md"
    if not committed.exists():
        pytest.skip("no page yet")
    grid = reproduce.load(name)
    assert committed.read_text(encoding="utf-8") == page(grid, reproduce.committed(grid, ROOT))
