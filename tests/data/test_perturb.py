# SPDX-License-Identifier: Apache-2.0
"""Perturbed sets: what is written, and how private it looks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from confide.data.catalog import load
from confide.data.resemblance import found_again, psnr, ssim
from confide.errors import DataError


def small_set(path: Path, rows: int = 40, groups: bool = False) -> Path:
    rng = np.random.default_rng()
    arrays: dict[str, np.ndarray] = {}
    for number, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"] = rng.integers(0, 256, (rows, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(rows) % 2).astype(np.uint8)[:, None]
        if groups:
            arrays[f"{split}_groups"] = np.arange(rows) // 4 + 1000 * number
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def invoke(*words: str) -> str:
    import typer

    from confide.cli.perturb import command

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words), catch_exceptions=False).stdout


def test_a_copy_is_written_with_its_guarantee_and_loads(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz", groups=True), tmp_path / "out"
    answer = json.loads(invoke(str(source), "--out", str(out), "--scale", "2", "--json"))
    stated = answer["guarantee"]
    assert (stated["epsilon_pixel"], stated["epsilon_image"], stated["epsilon_label"]) == (0.5, 32.0, None)
    assert stated["labels_in_clear"] and stated["private"]
    assert stated["most_images_of_a_unit"] == 4
    assert stated["epsilon_unit_without_labels"] == 128.0
    before, after = load(source), load(out)
    assert after.train.unit.value == "patient" and after.train.n_units == before.train.n_units
    np.testing.assert_array_equal(after.train.targets, before.train.targets)
    for split in ("train", "validation", "test"):
        # With noise of scale 2 on a range of 1, a pixel stays as it was with probability below 0.01.
        same = (vars(after)[split].images == vars(before)[split].images).mean()
        assert same < 0.1
    assert "32.00" in after.info.remarks


def test_labels_are_perturbed_only_when_asked(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz"), tmp_path / "out"
    text = invoke(str(source), "--out", str(out), "--scale", "2", "--label-epsilon", "0.25")
    assert "the label: ε = 0.25" in text
    assert "an image with its label: ε = 32.25" in text
    # Kept with probability 0.562: all 40 kept has probability below 1e-9.
    assert not np.array_equal(load(out).train.targets, load(source).train.targets)


def test_a_seed_is_called_what_it_is(tmp_path: Path) -> None:
    source = small_set(tmp_path / "own.npz")
    text = invoke(str(source), "--out", str(tmp_path / "out"), "--scale", "1", "--seed", "1")
    assert "NOT PRIVATE" in text


def test_the_same_folder_is_refused_the_second_time(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz"), tmp_path / "out"
    invoke(str(source), "--out", str(out), "--scale", "2")
    with pytest.raises(DataError, match="adds up"):
        invoke(str(source), "--out", str(out), "--scale", "2")


def test_measures_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    rng = np.random.default_rng()
    first = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    second = np.clip(first + rng.normal(0, 30, first.shape), 0, 255).astype(np.uint8)
    a, b = (torch.from_numpy(x).double() for x in (first, second))
    expected = [float(peak_signal_noise_ratio(x, y, data_range=255.0)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(first, second), expected, rtol=1e-6)
    # torchmetrics leaves the rim out; away from it the maps are the same, so the means agree within 2 %.
    likeness = float(structural_similarity_index_measure(a, b, data_range=255.0))
    assert ssim(first, second).mean() == pytest.approx(likeness, rel=0.02)


def test_re_identification_finds_copies_and_not_strangers() -> None:
    rng = np.random.default_rng()
    images = rng.integers(0, 256, (200, 1, 16, 16), dtype=np.uint8)
    darker = (images // 2).astype(np.uint8)
    assert found_again(darker, images) == 1.0
    # Of unrelated images each is found with probability 1/200: more than 12 of 200 has probability below
    # 1e-8.
    assert found_again(rng.integers(0, 256, images.shape, dtype=np.uint8), images) < 13 / 200
