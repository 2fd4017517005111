# SPDX-License-Identifier: Apache-2.0
"""The model card: its head parses as YAML, and it claims what the record claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from confide.experiments.record import RunRecord
from confide.reports.build import Options, write_report

MakeRun = Callable[..., Path]


def card_of(folder: Path, out: Path) -> tuple[dict[str, Any], str]:
    write_report([folder], out, Options(images=False))
    _, head, body = (out / "model-card.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_private_run(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    head, body = card_of(folder, tmp_path / "out")
    record = RunRecord.load(folder)
    assert record.guarantee is not None and record.spent is not None
    assert head["tags"] == ["medical-imaging", "differential-privacy"]
    assert head["pipeline_tag"] == "image-classification"
    privacy = head["privacy"]
    assert privacy["epsilon"] >= record.spent.epsilon > privacy["epsilon"] - 1e-3
    assert privacy["delta"] == 1e-5 and privacy["private"] is True
    assert privacy["unit"] == "image" and privacy["sampling"] == "poisson" and privacy["accountant"] == "pld"
    [entry] = head["model-index"][0]["results"]
    shown = {metric["type"]: metric["value"] for metric in entry["metrics"]}
    assert shown["accuracy"] == pytest.approx(record.metrics["test"]["accuracy"].value, abs=1e-4)
    for part in ("(3.00, 10⁻⁵)", "## What it does not cover", "no approval for use on patients", "CC BY 4.0"):
        assert part in body
    assert str(tmp_path) not in body


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({"epsilon": None}, "trained without differential privacy"), ({"seeded": True}, "Not private: seeded.")],
)
def test_runs_that_protect_nobody_carry_no_privacy_tag(
    make_run: MakeRun, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    head, body = card_of(make_run(**changed), tmp_path / "out")
    assert head["tags"] == ["medical-imaging"]
    assert head["privacy"] == "none" or head["privacy"]["private"] is False
    assert sentence in body


def test_what_the_page_warns_of_stands_in_the_card(make_run: MakeRun, tmp_path: Path) -> None:
    head, body = card_of(make_run(status="running", predictions=False), tmp_path / "out")
    assert "> This run was killed or is still running" in body
    assert "There is no evaluation of this run." in body and "model-index" not in head
