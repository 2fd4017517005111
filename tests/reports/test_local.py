# SPDX-License-Identifier: Apache-2.0
"""Runs on perturbed images: what local DP promises stands on the page, and how the images look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from confide.experiments.predictions import Predictions
from confide.experiments.record import RunRecord, load_run
from confide.reports.build import Options, write_report
from confide.reports.local import before_and_after, local_view, shows_originals

MakeRun = Callable[..., Path]
STATED: dict[str, Any] = {
    "epsilon_image": 392.0,
    "delta": 0.0,
    "labels_in_clear": True,
    "private": True,
    "text": ["one pixel: ε = 0.5000", "the whole image: ε = 392.00"],
}


def perturbed(make_run: MakeRun, name: str = "local", **stated: Any) -> Path:
    folder = make_run(name, epsilon=None, local_guarantee=STATED | stated)
    record = RunRecord.load(folder)
    data = record.data.model_copy(update={"fingerprint": "keyed:1"})
    record.model_copy(update={"data": data}).save(folder)
    return folder


def test_lines_and_pairs_stand_on_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    local, plain = perturbed(make_run), make_run("plain", epsilon=None, skill=2.8)
    text = write_report([plain, local], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "Images made private before training" in text
    assert "the whole image: ε = 392.00" in text and "promises nothing about whose image" in text
    assert "labels were stored as they are" in text
    assert text.count("before local DP") == text.count("after local DP") == 6
    assert "No privacy is promised. This" not in text
    hidden = write_report([plain, local], tmp_path / "hidden", Options(images=False))[0]
    assert "data:image/png" not in hidden.read_text(encoding="utf-8")


def test_alone_it_says_how_to_get_the_pictures(make_run: MakeRun, tmp_path: Path) -> None:
    text = write_report([perturbed(make_run)], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "give the run on the unperturbed images too" in text


def test_only_the_same_test_rows_are_paired(make_run: MakeRun) -> None:
    local, plain = perturbed(make_run), make_run("plain", epsilon=None)
    old = Predictions.load(plain)
    assert old.samples is not None and old.labels is not None
    Predictions(old.probabilities, old.labels, samples=old.samples[3:5], sample_rows=np.array([3, 4])).save(
        plain
    )
    run, other = load_run(local), load_run(plain)
    assert shows_originals(run, other) and not shows_originals(other, run)
    assert len(before_and_after(run, other)) == 2
    Predictions(old.probabilities, 1 - old.labels).save(plain)
    assert not shows_originals(run, load_run(plain))


def test_small_epsilon_and_known_seeds_read_differently(make_run: MakeRun) -> None:
    small = local_view(load_run(perturbed(make_run, "small", epsilon_image=3.0)), None)
    assert small is not None and "promises nothing" not in small.lead and "ε = 3.00" in small.lead
    seeded = local_view(load_run(perturbed(make_run, "seeded", private=False)), None)
    assert seeded is not None and "nobody is protected" in seeded.lead
    assert local_view(load_run(make_run("plain")), None) is None
