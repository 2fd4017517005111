# SPDX-License-Identifier: Apache-2.0
"""Perturbed sets: what is written, and how private it looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from confide.data.catalog import load
from confide.data.perturb import perturb
from confide.data.releases import Released
from confide.data.resemblance import found_again, psnr, ssim
from confide.errors import DataError
from confide.mechanisms.keys import RunKey
from confide.mechanisms.local import (
    LaplacePixels,
    LocalMechanism,
    Pixelate,
    RandomisedResponse,
    denoise,
)


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


def perturbed(source: Path, out: Path, mechanism: LocalMechanism | None = None, **options: object):
    key = options.pop("key", RunKey.from_os())
    return perturb(load(source), mechanism or LaplacePixels(2.0), out, key, **options)  # pyright: ignore


def test_a_copy_keeps_patients_labels_and_splits(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz", groups=True), tmp_path / "out"
    stated = perturbed(source, out).guarantee
    assert (stated.epsilon.pixel, stated.epsilon.image, stated.unit_epsilon) == (0.5, 32.0, 128.0)
    before, after = load(source), load(out)
    assert after.train.unit.value == "patient" and after.train.n_units == before.train.n_units
    np.testing.assert_array_equal(after.train.targets, before.train.targets)
    np.testing.assert_array_equal(after.train.unit_index, before.train.unit_index)
    for split in ("train", "validation", "test"):
        # With noise of scale 2 on a range of 1, a pixel stays as it was with probability below 0.01.
        assert (vars(after)[split].images == vars(before)[split].images).mean() < 0.1
    assert "32.00" in after.info.remarks
    assert after.local_guarantee is not None and after.local_guarantee["epsilon_image"] == 32.0
    assert any("perturbed copy" in line for line in after.declared_public)
    assert after.fingerprint.startswith("keyed:") and after.fingerprint != before.fingerprint


def test_masks_are_kept_beside_their_images_and_said_to_be_in_clear(tmp_path: Path) -> None:
    from PIL import Image
    from tests.data.builders import encoded, grey, pairs

    folder = pairs(tmp_path / "pairs", Image.new("L", (40, 40), 0))
    (folder / "images" / "bad.png").write_bytes(encoded(grey()))
    before = load(folder, size=16, channels=1, patients=r"(\d|bad)")
    result = perturb(before, Pixelate(4, 0.5), tmp_path / "out", RunKey.from_os())
    after = load(tmp_path / "out")
    assert result.guarantee.to_dict()["labels_in_clear"]
    for one, other in ((before.train, after.train), (before.test, after.test)):
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.unit_index, other.unit_index)
        # Every block of 4×4 is one value.
        blocks = other.images.reshape(len(other), 1, 4, 4, 4, 4)
        assert (blocks == blocks[:, :, :, :1, :, :1]).all()
    assert after.train.unit.value == "patient" and after.info.task == "segmentation"
    with pytest.raises(DataError, match="masks cannot be perturbed"):
        perturb(before, Pixelate(4, 1), tmp_path / "x", RunKey.from_os(), labels=RandomisedResponse(1, 2))


def test_copies_of_the_same_images_are_counted_and_added(tmp_path: Path) -> None:
    source = small_set(tmp_path / "own.npz")
    assert perturbed(source, tmp_path / "a").guarantee.released == Released(1, 32.0, 0.0)
    second = perturbed(source, tmp_path / "b", LaplacePixels(4.0)).guarantee
    assert second.released == Released(2, 48.0, 0.0)
    assert any("2 copies" in line and "48.00" in line for line in second.lines())
    assert second.to_dict()["epsilon_image"] == 16.0
    # A seeded copy is research: it protects nobody, says so, and is not counted.
    third = perturbed(source, tmp_path / "c", key=RunKey.from_seed(1)).guarantee
    assert third.released is None and "NOT PRIVATE" in third.lines()[0]
    other = perturbed(small_set(tmp_path / "other.npz"), tmp_path / "d").guarantee
    assert other.released == Released(1, 32.0, 0.0)


def test_a_copy_that_cannot_be_written_down_is_not_made(tmp_path: Path, own_folders: Path) -> None:
    source = small_set(tmp_path / "own.npz")
    load(source)
    (own_folders / "local-releases.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match="damaged"):
        perturbed(source, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_must_not_be_perturbed_is_refused(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz"), tmp_path / "out"
    perturbed(source, out)
    with pytest.raises(DataError, match="adds up"):
        perturbed(source, out)
    with pytest.raises(DataError, match="a perturbed copy already"):
        perturbed(out, tmp_path / "again")
    (out / "guarantee.json").write_text("{}")
    with pytest.raises(DataError, match="record of a perturbed set is damaged"):
        load(out)


def test_the_best_of_several_widths_counts(tmp_path: Path) -> None:
    """Smooth pictures under white noise look better when smoothed; a known picture is found either way."""
    rng = np.random.default_rng()
    arrays: dict[str, np.ndarray] = {}
    for split, rows in (("train", 200), ("val", 4), ("test", 4)):
        coarse = rng.integers(0, 256, (rows, 4, 4), dtype=np.uint8)
        arrays[f"{split}_images"] = coarse.repeat(8, axis=1).repeat(8, axis=2)
        arrays[f"{split}_labels"] = (np.arange(rows) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "own.npz", **arrays)  # pyright: ignore[reportArgumentType]
    result = perturbed(tmp_path / "own.npz", tmp_path / "out", LaplacePixels(4.0))
    assert result.denoised.width > 0
    assert result.denoised.ssim > result.raw.ssim and result.denoised.psnr > result.raw.psnr
    copies = load(tmp_path / "out").train.images / 255
    originals = load(tmp_path / "own.npz").train.images
    for width in (0.75, 1.5, 3.0, 6.0):
        assert result.denoised.found >= found_again(denoise(copies, width), originals)


def test_a_private_run_on_a_copy_carries_both_guarantees_and_leaves_the_originals_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.isolation import isolate

    from confide.experiments.config import Experiment
    from confide.experiments.run import fit
    from confide.privacy.ledger import Ledger

    isolate(tmp_path / "house", monkeypatch)
    source, out = small_set(tmp_path / "own.npz", groups=True), tmp_path / "out"
    perturbed(source, out)
    experiment = Experiment.parse(
        {
            "name": "on-copy",
            "data": {"name": str(out)},
            "model": {"name": "resnet9", "widths": [4, 4, 8]},
            "privacy": {"noise_multiplier": 4.0, "delta": 1e-3},
            "training": {"batch_size": 4, "steps": 1},
            "evaluation": {"bootstrap": 0},
            "device": "cpu",
            "out": str(tmp_path / "runs"),
        }
    )
    record = fit(experiment)
    assert record.local_guarantee is not None
    assert (record.local_guarantee["epsilon_image"], record.local_guarantee["unit"]) == (32.0, "patient")
    assert record.guarantee is not None and record.data.unit.value == "patient"
    with Ledger.open() as ledger:
        known = {entry.dataset for entry in ledger.runs()}
    assert known == {"own-perturbed"}


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
