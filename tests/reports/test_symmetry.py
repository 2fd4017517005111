# SPDX-License-Identifier: Apache-2.0
"""The section on turned images: measured right, on a drawn picture alone, and only for steerable networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from confide.equivariant import CyclicGroup
from confide.equivariant.pictures import blobs
from confide.experiments.record import load_run
from confide.experiments.trained import trained_model
from confide.models.registry import build
from confide.reports.build import Options, write_report
from confide.reports.symmetry import Symmetry, Turn, group_words, measured, symmetry_of
from confide.reports.turning import draw_filters, lead


def steerable(make_run: Any, name: str = "steerable", **options: Any) -> Path:
    folder: Path = make_run(name)
    options = {"widths": [2, 2, 4], **options}
    record = json.loads((folder / "run.json").read_text())
    record["model"]["options"] = options
    (folder / "run.json").write_text(json.dumps(record))
    model = build("resnet9", in_channels=1, classes=2, **options)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def test_the_changes_are_those_of_quarter_turns_by_hand(make_run: Any) -> None:
    """Restricted from C4 to C2: half turns are promised, quarter turns are not."""
    run = load_run(steerable(make_run, group="C4", restrict=True))
    found = symmetry_of(run)
    assert found is not None and found.group == "C2" and found.words == "turned by half"
    by_angle = {t.angle: t for t in found.turns}
    assert sorted(by_angle) == [15.0 * i for i in range(24)]
    assert [a for a, t in by_angle.items() if t.promised] == [0.0, 180.0]
    model, picture = trained_model(run), blobs(1, 28)
    for quarters in range(4):
        with torch.no_grad():
            plain, turned = model(picture)[0], model(torch.rot90(picture, quarters, (2, 3)))[0]
        wanted = float((turned - plain).norm() / plain.norm())
        assert by_angle[90.0 * quarters].change == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert by_angle[180.0].change < 1e-4 < 1e-3 < by_angle[90.0].change


def test_no_image_of_the_data_is_looked_at(make_run: Any) -> None:
    folder = steerable(make_run, group="D4", restrict=False)
    before = symmetry_of(load_run(folder))
    (folder / "predictions.npz").unlink()
    after = symmetry_of(load_run(folder))
    assert before is not None and after is not None and before.turns == after.turns
    assert {t.mirrored for t in after.turns} == {False, True}


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
def test_filters_are_the_copies_of_one_filter(group: str) -> None:
    """A quarter turn of a filter's picture is the picture two (one) columns further."""
    found = measured(build("resnet9", in_channels=3, classes=2, group=group).eval(), blobs(3, 28))
    step = 2 if group == "C8" else 1
    assert found.filters.shape[:2] == (4, 8 if group != "C4" else 4)
    assert found.labels[step] == "90°"
    turned = torch.rot90(torch.from_numpy(found.filters[:, 0]), 1, (1, 2))
    torch.testing.assert_close(torch.from_numpy(found.filters[:, step]), turned, rtol=0, atol=1e-6)


def test_label_maps_are_to_turn() -> None:
    model = build("unet", in_channels=1, classes=2, widths=[2, 2], group="C4").eval()
    found = measured(model, blobs(1, 16))
    assert found.maps and found.group == "C4"
    assert max(t.change for t in found.turns if t.exact) < 1e-3
    assert "label map that turns with it" in lead(found)


def test_vectors_have_channels_and_no_orientations() -> None:
    found = measured(build("resnet9", in_channels=1, classes=2, group="O2").eval(), blobs(1, 16))
    assert found.labels == ()
    assert draw_filters(found).axes[0].get_xlabel() == "channel"


def test_words_of_groups_without_turns_and_of_broken_promises() -> None:
    assert group_words(CyclicGroup(1)) == ""
    filters = torch.zeros(1, 1, 3, 3).numpy()
    turns = (Turn(0.0, False, True, 0.0), Turn(90.0, False, True, 0.25), Turn(45.0, False, False, 0.5))
    said = lead(Symmetry("C4", "turned by quarters", turns, filters, (), False, 28))
    assert "25%: its grid of pixels breaks the promise" in said and "up to 50%" in said
    assert "nothing is promised" in lead(Symmetry("C1", "", turns[:1], filters, (), False, 28))


def test_pages_of_steerable_runs_alone_have_the_section(make_run: Any) -> None:
    folder = steerable(make_run, group="C4", restrict=False)
    written = write_report([folder], folder, Options(images=False, figures=True))
    page = written[0].read_text()
    assert 'id="turning"' in page and "when an image is turned by quarters (group C4)" in page
    answer = json.loads((folder / "report.json").read_text())["symmetry"]
    assert answer["group"] == "C4" and len(answer["turns"]) == 24
    assert {"change-by-angle.svg", "learned-filters.png"} <= {path.name for path in written}
    plain = make_run("plain", model=True)
    assert 'id="turning"' not in write_report([plain], plain)[0].read_text()
    assert json.loads((plain / "report.json").read_text())["symmetry"] is None


def test_a_model_that_cannot_be_built_costs_only_the_section(make_run: Any) -> None:
    folder = steerable(make_run, group="C4", restrict=False)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert symmetry_of(load_run(folder)) is None
    assert 'id="turning"' not in write_report([folder], folder, Options(images=False))[0].read_text()
