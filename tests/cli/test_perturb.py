# SPDX-License-Identifier: Apache-2.0
"""`confide perturb`: what it prints, and never one ε as if it were another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from tests.data.test_perturb import small_set
from tests.isolation import isolate
from typer.testing import CliRunner

from confide.cli.perturb import command
from confide.data.catalog import load
from confide.errors import ConfigError, PlanError


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path / "house", monkeypatch)


def invoke(*words: str) -> str:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words), catch_exceptions=False).stdout


def test_each_epsilon_has_its_own_line(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz", groups=True), tmp_path / "out"
    text = invoke(str(source), "--out", str(out), "--scale", "2", "--label-epsilon", "0.25")
    # 8×8 grey pixels, four images a patient, β = 2: worked out by hand.
    for line in (
        "one pixel: ε = 0.5000",
        "16 pixels: ε = 8.0000",
        "the whole image: ε = 32.00",
        "the label: ε = 0.25",
        "an image with its label: ε = 32.25",
        "a patient with 4 images, without labels: ε = 128.00",
        "too large to mean",
    ):
        assert line in text
    # Kept with probability 0.562: all 40 kept has probability below 1e-9.
    assert not np.array_equal(load(out).train.targets, load(source).train.targets)


def test_labels_in_clear_are_called_that(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz"), tmp_path / "out"
    answer = json.loads(invoke(str(source), "--out", str(out), "--scale", "2", "--json"))
    stated = answer["guarantee"]
    assert (stated["epsilon_pixel"], stated["epsilon_image"], stated["epsilon_label"]) == (0.5, 32.0, None)
    assert stated["labels_in_clear"] and stated["private"]
    assert {"psnr", "ssim", "found", "chance"} <= answer["looks"]["raw"].keys() & answer["looks"][
        "denoised"
    ].keys()
    # What was computed from the originals is not in the record that goes with the copy.
    assert "psnr" not in (out / "guarantee.json").read_text()
    looks = json.loads((out / "looks.json").read_text())
    assert "not to be passed on" in looks.pop("note") and looks == answer["looks"]


@pytest.mark.parametrize("method", ["gaussian", "frequencies", "wavelets"])
def test_the_noise_of_a_budget_keeps_to_it(method: str, tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz"), tmp_path / "out"
    options = ["--method", method, "--epsilon", "4", "--keep", "2", "--json"]
    stated = json.loads(invoke(str(source), "--out", str(out), *options))["guarantee"]
    assert 3.99 < stated["epsilon_image"] <= 4 and stated["delta"] == 1e-5


def test_pixelation_spends_its_budget_on_the_neighbourhood(tmp_path: Path) -> None:
    source, out = small_set(tmp_path / "own.npz"), tmp_path / "out"
    options = ["--method", "pixelate", "--epsilon", "1", "--neighbourhood", "5", "--json"]
    stated = json.loads(invoke(str(source), "--out", str(out), *options))["guarantee"]
    assert 0.999 < stated["epsilon_neighbourhood"] <= 1 and stated["neighbourhood_pixels"] == 5
    # m/(b²·s) = 1 for m = 5, b = 4: s = 0.3125, so the four blocks of the image have 4/s = 12.8.
    assert stated["epsilon_image"] == pytest.approx(12.8, rel=1e-6)


def test_noise_after_normalisation_is_told_apart(tmp_path: Path) -> None:
    source = small_set(tmp_path / "own.npz")
    options = ["--scale", "2", "--after-normalisation", "--json"]
    stated = json.loads(invoke(str(source), "--out", str(tmp_path / "a"), *options))["guarantee"]
    # Constants 0.5: half the noise on [0, 1], twice the ε.
    assert (stated["epsilon_pixel"], stated["epsilon_image"]) == (1.0, 64.0)
    assert "after normalisation by 0.5" in stated["mechanism"]


def test_a_seed_is_called_what_it_is(tmp_path: Path) -> None:
    source = small_set(tmp_path / "own.npz")
    text = invoke(str(source), "--out", str(tmp_path / "out"), "--scale", "1", "--seed", "1")
    assert "NOT PRIVATE" in text


def test_wrong_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for words, error, match in (
        (["--scale", "1", "--method", "blur"], ConfigError, "unknown method 'blur'"),
        ([], ConfigError, "give one of --scale and --epsilon"),
        (["--scale", "1", "--epsilon", "1"], ConfigError, "give one of"),
        (["--scale", "1", "--method", "gaussian", "--after-normalisation"], ConfigError, "laplace only"),
    ):
        with pytest.raises(error, match=match):
            invoke(str(tmp_path / "none"), "--out", str(tmp_path / "out"), *words)
    with pytest.raises(PlanError, match="scale must be positive"):
        invoke(str(small_set(tmp_path / "own.npz")), "--out", str(tmp_path / "out"), "--scale", "-1")
    assert not (tmp_path / "out").exists()
