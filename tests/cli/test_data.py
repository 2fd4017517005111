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
