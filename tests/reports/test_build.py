# SPDX-License-Identifier: Apache-2.0
"""What a page says about runs that are damaged, unfinished, seeded, alone or of other kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from confide.errors import RunError
from confide.experiments.history import FILE as HISTORY
from confide.experiments.predictions import FILE as PREDICTIONS
from confide.experiments.predictions import Predictions
from confide.experiments.record import Audit, RunRecord
from confide.privacy.units import PrivacyUnit
from confide.reports.build import Options, write_report

MakeRun = Callable[..., Path]


def page_of(*folders: Path, out: Path, **options: bool) -> str:
    """The text of a page, tags taken out."""
    text = write_report(list(folders), out, Options(**options))[0].read_text(encoding="utf-8")
    text = re.sub(r"<(style|script|svg).*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def change(folder: Path, **values: object) -> None:
    record = RunRecord.load(folder)
    record.model_copy(update=values).save(folder)


def test_guarantee_first_then_limits_then_figures(make_run: MakeRun, tmp_path: Path) -> None:
    said = page_of(make_run(), out=tmp_path / "out")
    order = ["would have come out almost the same", "ε = 3.00", "In symbols", "What it rests on"]
    order += ["What it does not cover", "What privacy cost", "How good the model is", "Command"]
    places = [said.index(text) for text in order]
    assert places == sorted(places)
    for text in ("10⁻⁵", "poisson, rate q", "add-or-remove-one", "noise multiplier σ", "confide train"):
        assert text in said, text
    assert "no run of the same training without privacy was given" in said


def test_beside_its_twin_and_the_majority(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run("private"), make_run("plain", epsilon=None, skill=2.8)]
    said = page_of(*folders, out=tmp_path / "out")
    assert "the same training without privacy" in said
    assert "With and without privacy, on the same test images" in said
    share = RunRecord.load(folders[0]).baseline.majority_accuracy
    assert share is not None and f"most frequent class: {100 * share:.1f}%" in said
    found = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert found["without_privacy"]["paired"] is True
    one, other = (Predictions.load(f) for f in folders)
    assert one.probabilities is not None and other.probabilities is not None
    gap = (other.probabilities.argmax(1) == other.labels).mean() - (
        one.probabilities.argmax(1) == one.labels
    ).mean()
    assert found["without_privacy"]["differences"]["accuracy"]["value"] == pytest.approx(gap)


def test_a_killed_run_is_charged_for_the_whole_plan(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(status="running", predictions=False)
    change(folder, spent=None)
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / HISTORY).write_text("".join(lines[:40]) + lines[40][:20], encoding="utf-8")
    said = page_of(folder, out=tmp_path / "out")
    assert "killed or is still running" in said
    assert "stated for the whole plan" in said and "ε = 3.00" in said
    assert "was cut off by a crash" in said
    assert "There is no evaluation of this run" in said


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("interrupted", "can be resumed"),
        ("exhausted", "budget of the data set was used up"),
        ("failed", "failed at"),
    ],
)
def test_other_ends_are_said(make_run: MakeRun, tmp_path: Path, status: str, text: str) -> None:
    assert text in page_of(make_run(status=status), out=tmp_path / "out")


def test_a_seeded_run_promises_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    said = page_of(make_run(seeded=True), out=tmp_path / "out")
    assert "Not private: seeded." in said and "protects nobody" in said
    assert "of 100 with this model" not in said


def test_a_run_without_privacy(make_run: MakeRun, tmp_path: Path) -> None:
    said = page_of(make_run(epsilon=None), out=tmp_path / "out")
    assert "No privacy is promised." in said
    assert "What it rests on" not in said and "In symbols" not in said
    assert "what protects people" not in said


def test_a_class_absent_from_the_test_set(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(classes=("normal", "bacterial", "viral"))
    old = Predictions.load(folder)
    assert old.probabilities is not None and old.labels is not None
    keep = old.labels != 2
    Predictions(old.probabilities[keep], old.labels[keep]).save(folder)
    said = page_of(folder, out=tmp_path / "out")
    assert "No test image is of class 'viral'" in said
    assert "no test image is of class 'viral'" in said, "and in the table of classes"


def test_a_segmentation_run(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    record = RunRecord.load(folder)
    change(folder, data=record.data.model_copy(update={"task": "segmentation"}), metrics={})
    rng = np.random.default_rng(0)
    distance = rng.uniform(1, 9, 30)
    distance[:4] = np.nan
    masks = np.zeros((3, 28, 28), np.uint8)
    masks[:, 5:15, 5:15] = 1
    Predictions(
        scores={"dice": rng.uniform(0.5, 1, 30), "iou": rng.uniform(0.4, 1, 30), "hausdorff95": distance},
        samples=rng.integers(0, 255, (3, 28, 28, 1), dtype=np.uint8),
        sample_rows=np.arange(3),
        sample_targets=masks,
        sample_predictions=np.roll(masks, 2, 1),
    ).save(folder)
    said = page_of(folder, out=tmp_path / "out")
    assert "Test Dice" in said and "95% Hausdorff distance, pixels" in said
    assert "undefined on 4 of 30 images" in said
    assert "true outline" in said


def test_damaged_side_files_cost_what_they_would_have_shown(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    (folder / PREDICTIONS).write_bytes(b"PK\x03\x04 not a zip")
    (folder / HISTORY).write_text('{"event":"other"}\n', encoding="utf-8")
    said = page_of(folder, out=tmp_path / "out")
    assert "predictions.npz: is damaged" in said
    assert "metrics.jsonl, line 1: is damaged or was not written by confide" in said
    assert str(tmp_path) not in said
    assert "accuracy" in said, "the record still holds the figures"


def test_figures_that_contradict_each_other_are_said(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    old = Predictions.load(folder)
    assert old.probabilities is not None
    Predictions(old.probabilities[:, ::-1].copy(), old.labels).save(folder)
    assert "one of them was changed or is of another run" in page_of(folder, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no run.json"),
        ("{", "is damaged"),
        ("[1]", "was not written by confide"),
        ('{"schema": 99}', "has schema 99, this confide reads schema 1"),
        ('{"schema": 1, "name": "x"}', "is damaged"),
    ],
)
def test_foreign_folders_are_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    if text is not None:
        (folder / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=message) as caught:
        write_report([folder], tmp_path / "out")
    assert "foreign" in str(caught.value) and caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_page_that_cannot_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot be written.*Choose another --out"):
        write_report([make_run()], tmp_path / "file" / "out")


def test_text_of_a_run_cannot_become_markup(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(classes=("<script>alert(1)</script>", "b&b"))
    text = write_report([folder], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_no_identifier_path_or_loss_of_one_image(make_run: MakeRun, tmp_path: Path) -> None:
    """Subgroups and units are numbers and words; the page holds nothing by row but the samples."""
    folder = make_run(unit=PrivacyUnit.PATIENT)
    written = write_report([folder], tmp_path / "out", Options(images=False))
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert str(tmp_path) not in text and "unit_index" not in text, path.name
    assert "data:image/png" not in written[0].read_text(encoding="utf-8")
    assert written[0].stat().st_size < 5_000_000


def test_the_audit_is_repeated_and_a_refuted_claim_is_shouted(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    change(folder, audit=Audit(epsilon_lower_bound=1.2, confidence=0.95, method="one run, 1,000 canaries"))
    assert "ε is at least 1.20, with 95% confidence" in page_of(folder, out=tmp_path / "one")
    change(folder, audit=Audit(epsilon_lower_bound=4.5, confidence=0.95, method="one run"))
    assert "the claim is refuted, do not publish this model" in page_of(folder, out=tmp_path / "two")


def test_several_runs_are_compared_and_each_has_its_page(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [
        make_run(
            f"e{e}-s{s}",
            epsilon=e,
            skill=1.2 + 0.1 * e,
            noise_seed=100 * s,
            repeat=s,
            subgroups=False,
            rows=100,
        )
        for e in (1.0, 8.0)
        for s in (1, 2, 3)
    ]
    written = write_report(folders, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    [test] = data["tests"]
    assert test["method"] == "sign flips over 3 pairs" and test["p"] >= 0.25 == 2 / 2**3
    assert len(written) == 2 + 6
    links = re.findall(r'href="(run-[^"]+)"', written[0].read_text(encoding="utf-8"))
    assert sorted(links) == sorted(path.name for path in written[2:])


def test_print_figures(make_run: MakeRun, tmp_path: Path) -> None:
    from PIL import Image

    write_report([make_run(subgroups=False)], tmp_path / "out", Options(figures=True, images=False))
    pngs = sorted((tmp_path / "out" / "figures").glob("*.png"))
    assert {path.stem for path in pngs} >= {"accuracy-by-epsilon", "reliability", "confusion-matrix"}
    for path in pngs:
        with Image.open(path) as image:
            assert image.info["dpi"][0] == pytest.approx(300, abs=1) and image.width > 600
        assert "<svg" in path.with_suffix(".svg").read_text(encoding="utf-8")
