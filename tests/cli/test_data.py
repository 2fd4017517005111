# SPDX-License-Identifier: Apache-2.0
"""`confide data`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from confide.cli.data import app
from confide.errors import DataError

RUNNER = CliRunner()


def test_list_names_the_packaged_set() -> None:
    rows = json.loads(RUNNER.invoke(app, ["list", "--json"], catch_exceptions=False).stdout)
    found = {row["name"]: row for row in rows}
    assert found["pneumoniamnist"]["here"]
    assert found["pneumoniamnist"]["licence"] == "CC BY 4.0"


def test_show_counts_what_the_file_holds(tmp_path: Path) -> None:
    # The counts are those of DATA.md, not computed by the code under test.
    result = RUNNER.invoke(
        app, ["show", "pneumoniamnist", "--json", "--sheet", str(tmp_path / "s.png")], catch_exceptions=False
    )
    splits = json.loads(result.stdout)["splits"]
    assert splits["train"] == {"images": 4708, "classes": {"normal": 1214, "pneumonia": 3494}}
    assert splits["validation"]["classes"] == {"normal": 135, "pneumonia": 389}
    assert splits["test"]["classes"] == {"normal": 234, "pneumonia": 390}
    assert (tmp_path / "s.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_show_says_it_in_words() -> None:
    text = RUNNER.invoke(app, ["show", "pneumoniamnist"], catch_exceptions=False).stdout
    assert "CC BY 4.0" in text
    assert "4708" in text


def test_unknown_names_and_units() -> None:
    from confide.errors import ConfigError

    with pytest.raises(DataError, match="Did you mean 'pneumoniamnist'"):
        RUNNER.invoke(app, ["show", "pneumoniamist"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="unknown unit"):
        RUNNER.invoke(app, ["show", "pneumoniamnist", "--unit", "hospital"], catch_exceptions=False)
    with pytest.raises(DataError, match="has no patient ids"):
        RUNNER.invoke(app, ["show", "pneumoniamnist", "--unit", "patient"], catch_exceptions=False)


def test_the_keyed_digest_follows_content_and_key() -> None:
    from dataclasses import replace

    from confide.data.catalog import load

    splits = load("pneumoniamnist")
    changed = np.array(splits.train.images)
    changed[7, 0, 0, 0] ^= 1
    other = replace(splits, train=replace(splits.train, images=changed))
    first = splits.content_digest(b"a" * 32)
    assert first == splits.content_digest(b"a" * 32)
    assert len({first, splits.content_digest(b"b" * 32), other.content_digest(b"a" * 32)}) == 3


def test_list_says_all_there_is_to_know_of_every_set() -> None:
    rows = json.loads(RUNNER.invoke(app, ["list", "--json"], catch_exceptions=False).stdout)
    found = {row["name"]: row for row in rows}
    assert found["retinamnist"]["counts"] == [1080, 120, 400] and found["retinamnist"]["sizes"][-1] == 224
    assert found["task03_liver"]["md5"] == ["a90ec6c4aa7f6a3d087205e23d4e6397"]
    assert "doi.org" in found["ham10000"]["citation"] or "doi:" in found["ham10000"]["citation"]
    assert "zenodo" in found["organmnist3d"]["source"]
    text = RUNNER.invoke(app, ["list"], catch_exceptions=False).stdout
    assert "more are known" in text and "pathmnist" not in text
    assert (
        "pathmnist"
        in RUNNER.invoke(app, ["list", "--all"], catch_exceptions=False, env={"COLUMNS": "200"}).stdout
    )


def test_fetch_without_a_network_names_the_file_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.error

    # Stands for the network, which is not under test: this machine may or may not have one.
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("CONFIDE_DATA", str(tmp_path))
    for name, file in (("octmnist", "octmnist.npz"), ("Task03_Liver", "Task03_Liver.tar")):
        with pytest.raises(DataError, match="cannot be reached") as caught:
            RUNNER.invoke(app, ["fetch", name], catch_exceptions=False)
        assert f"copy the file to {tmp_path / file}" in str(caught.value)
    with pytest.raises(DataError, match=r"octmnist_64\.npz"):
        RUNNER.invoke(app, ["fetch", "octmnist", "--size", "64"], catch_exceptions=False)


def test_show_finds_duplicates_across_splits() -> None:
    # DATA.md: 8 images of PneumoniaMNIST are in both train and validation.
    answer = RUNNER.invoke(
        app, ["show", "pneumoniamnist", "--json", "--duplicates"], catch_exceptions=False
    ).stdout
    first = json.loads(answer)["duplicates"][0]
    assert (first["first"], first["second"], first["exact"]) == ("train", "validation", 8)


def test_show_of_one_patient_and_of_named_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.builders import good_folder
    from tests.isolation import isolate

    isolate(tmp_path / "house", monkeypatch)
    folder = str(good_folder(tmp_path / "set"))
    options = ["--size", "8", "--classes", "well,ill", "--json", "--seed", "3"]
    answer = json.loads(RUNNER.invoke(app, ["show", folder, *options], catch_exceptions=False).stdout)
    assert answer["classes"] == ["well", "ill"]
    assert answer["splits"]["train"] == {"images": 12, "classes": {"well": 6, "ill": 6}}
