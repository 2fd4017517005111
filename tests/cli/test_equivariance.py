# SPDX-License-Identifier: Apache-2.0
"""`confide equivariance` prints errors, draws pictures, and refuses what is not steerable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from confide.cli.main import run


def confide(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    return int(ended.value.code or 0)


def test_errors_as_json_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)).save(picture)
    out = tmp_path / "out"
    code = confide(
        *("equivariance", "resnet9", "--group", "D2", "--image", str(picture), "--out", str(out)),
        *("--step", "90", "--json"),
    )
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert max(e["error"] for e in answer["errors"] if e["promised"]) < 1e-4
    assert sorted(p.name for p in out.iterdir()) == ["basis.png", "errors.png", "fields.png"]
    assert [Path(p).read_bytes()[:4] for p in answer["pictures"]] == [b"\x89PNG"] * 3


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert confide("equivariance", "resnet9", "--group", "C4", "--step", "90") == 0
    shown = capsys.readouterr().out
    assert "res1.body.0.conv" in shown and "output" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vgg11", "--group", "C4"], "no option 'group'"),
        (["resnet9", "--group", "none"], "no steerable convolution"),
        (["resnet9", "--group", "C0"], "no N = 0"),
        (["resnet9", "--step", "0"], "--step"),
        (["resnet9", "--image", "missing.png"], "missing.png"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert confide("equivariance", *arguments) == 2
    assert words in capsys.readouterr().err
