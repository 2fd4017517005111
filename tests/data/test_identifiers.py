# SPDX-License-Identifier: Apache-2.0
"""What must never leave the machine: markers are planted, and everything that was written is searched."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from tests.data.builders import dicom, encoded, good_folder, grey
from tests.isolation import isolate

from confide.cli.main import run
from confide.data.catalog import load
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

MARKERS = ("Zzyzx^Quentin", "PID-8675309", "19010203", "kidmarker77", "Rumpelstilz")


def hospital(folder: Path, patients: int = 10) -> Path:
    """Two classes of DICOM files of the same patients, with a name, an id and a birth date in each header."""
    for label in ("ill", "well"):
        (folder / label).mkdir(parents=True)
        for i in range(patients):
            pixels = np.random.default_rng().integers(0, 65535, (20, 20)).astype(np.uint16)
            data = dicom(
                pixels, PatientName=MARKERS[0], PatientID=f"{MARKERS[1]}-{i}", PatientBirthDate=MARKERS[2]
            )
            (folder / label / f"{MARKERS[3]}-{i}.dcm").write_bytes(data)
    return folder


def call(*words: str) -> None:
    """A command; each must succeed."""
    try:
        run(words)
    except SystemExit as end:
        assert end.code in (0, None), words


EXPERIMENT = """
name: markers
data: {{name: {folder}, size: 16, channels: 1, skip_bad: true}}
model: {{name: resnet9, widths: [4, 4, 8]}}
privacy: {{noise_multiplier: 4.0, delta: 1e-3}}
training: {{batch_size: 4, steps: 2}}
evaluation: {{bootstrap: 0}}
device: cpu
out: {out}
"""


def test_identifiers_reach_no_output(
    tmp_path: Path,
    own_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Headers and file names, a damaged file among them: in nothing printed, logged, cached or written."""
    caplog.set_level(logging.DEBUG)
    house = tmp_path / "house"
    isolate(house, monkeypatch)
    folder, sheet, out = hospital(tmp_path / "set"), str(tmp_path / "out.png"), tmp_path / "out"
    call("data", "show", str(folder), "--size", "16", "--sheet", sheet, "--json")
    call("data", "show", str(folder), "--size", "16", "--duplicates")
    call("perturb", str(folder), "--size", "16", "--out", str(out), "--scale", "2")
    # A bad file's name is told to the person at the terminal, and to nobody else.
    (folder / "ill" / f"{MARKERS[4]}.dcm").write_bytes(dicom(PatientID=f"{MARKERS[1]}-0", PixelData=None))
    config = tmp_path / "experiment.yaml"
    config.write_text(EXPERIMENT.format(folder=folder, out=tmp_path / "runs"))
    call("train", str(config))
    call("report", str(tmp_path / "runs" / "markers"), "--out", str(tmp_path / "page"))
    printed = capfd.readouterr()
    places = (house, own_folders, out, Path(sheet), tmp_path / "runs", tmp_path / "page")
    written = [f for p in places for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    assert len(written) >= 15
    found = printed.out.encode() + printed.err.encode() + caplog.text.encode()
    found += repr(load(folder, size=16, skip_bad=True)).encode()
    found += b"".join(path.read_bytes() for path in written)
    with np.load(out / "data.npz") as file:
        found += b"".join(file[name].tobytes() for name in file.files)
    for marker in MARKERS:
        assert marker.encode() not in found, marker
    assert json.loads((out / "guarantee.json").read_text())["unit"] == "patient"
    record = json.loads((tmp_path / "runs" / "markers" / "run.json").read_text())
    assert record["data"]["unit"] == "patient"
    assert any("1 files or lines" in warning for warning in record["warnings"])


def test_the_patients_of_a_header_are_the_units(tmp_path: Path) -> None:
    splits = load(hospital(tmp_path / "set"), size=16)
    parts = (splits.train, splits.validation, splits.test)
    assert splits.train.unit is PrivacyUnit.PATIENT
    assert [sum(part.n_units for part in parts), sum(map(len, parts))] == [10, 20]


def test_a_bad_dicom_file_is_named_without_its_header(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "set")
    bad = dicom(PatientName=MARKERS[0], PatientID=MARKERS[1], PixelData=None)
    (folder / "train" / "ill" / "scan.dcm").write_bytes(bad)
    with pytest.raises(DataError) as caught:
        load(folder, size=16)
    assert "scan.dcm" in str(caught.value)
    assert not any(marker in str(caught.value) for marker in MARKERS)


def test_dicom_files_without_an_ending_and_in_a_table_have_their_patients(tmp_path: Path) -> None:
    """PACS exports often have no `.dcm`; and a table need not have a column for what the headers say."""
    folder = hospital(tmp_path / "bare")
    for path in list(folder.rglob("*.dcm")):
        path.rename(path.with_suffix(""))
    assert load(folder, size=16).train.unit is PrivacyUnit.PATIENT
    (tmp_path / "table").mkdir()
    lines = ["image,label"]
    for i in range(12):
        (tmp_path / "table" / f"{i}.dcm").write_bytes(dicom(PatientID=f"p{i // 2}"))
        lines.append(f"{i}.dcm,{i % 2}")
    (tmp_path / "table" / "rows.csv").write_text("\n".join(lines))
    splits = load(tmp_path / "table", size=16)
    assert sum(part.n_units for part in (splits.train, splits.validation, splits.test)) == 6
    (tmp_path / "table" / "0.png").write_bytes(encoded(grey()))
    (tmp_path / "table" / "rows.csv").write_text("\n".join([*lines, "0.png,0"]))
    # One picture names nobody: then no guarantee per patient is offered.
    assert load(tmp_path / "table", size=16).train.unit is PrivacyUnit.IMAGE
