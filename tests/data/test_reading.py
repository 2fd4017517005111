# SPDX-License-Identifier: Apache-2.0
"""Folders, tables, layouts, DICOM, volumes, splits, the cache, and what must never leave the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.data.builders import HEAD, ROWS, dicom, encoded, good_folder, grey, pairs, table_set, volume

from confide.data.catalog import load
from confide.data.dicom import read_dicom
from confide.data.duplicates import between
from confide.data.pseudonyms import project_key, pseudonym
from confide.data.splits import assign
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit


def sets(splits):
    return splits.train, splits.validation, splits.test


def test_class_folders_are_read_with_their_splits(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "set")
    white = Image.new("L", (40, 40), 200)
    (folder / "test" / "well" / "white.png").write_bytes(encoded(white))
    splits = load(folder, size=16, channels=1)
    assert splits.info.classes == ("ill", "well")
    assert [len(part) for part in sets(splits)] == [12, 12, 13]
    found = np.flatnonzero((splits.test.images == 200).all((1, 2, 3)))
    assert len(found) == 1 and splits.test.targets[found[0]] == 1
    images, labels = splits.train.batch(np.array([0, 3]))
    assert images.shape == (2, 1, 16, 16) and labels.tolist() == splits.train.targets[[0, 3]].tolist()
    assert splits.fingerprint.startswith("keyed:")


def test_a_folder_and_its_zip_hold_the_same(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    first, second = load(folder, size=16), load(tmp_path / "set.zip", size=16)
    for a, b in zip(sets(first), sets(second), strict=True):
        assert sorted(x.tobytes() for x in a.images) == sorted(x.tobytes() for x in b.images)


def test_a_table_names_patients_and_splits(tmp_path: Path) -> None:
    folder = table_set(tmp_path / "set", (HEAD + ROWS).replace("p1", "p0").replace(",", "\t"), "labels.tsv")
    splits = load(folder, size=16)
    assert splits.train.unit is PrivacyUnit.PATIENT
    assert (len(splits.train), splits.train.n_units) == (2, 1)
    assert load(folder, size=16, unit=PrivacyUnit.IMAGE).train.n_units == 2


def test_patients_from_a_pattern(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for who in range(30):
            for shot in range(3):
                (tmp_path / label / f"kid{label}{who}_{shot}.png").write_bytes(encoded(grey(9)))
    splits = load(tmp_path, size=8, patients=r"(kid\w+)_\d")
    assert sum(part.n_units for part in sets(splits)) == 60
    assert all(len(part) == 3 * part.n_units for part in sets(splits))
    with pytest.raises(DataError, match="finds no patient"):
        load(tmp_path, size=8, patients=r"(adult\d+)")


def test_pairs_keep_image_and_mask_together(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "set", Image.new("L", (40, 40), 0))
    (folder / "images" / "bad.png").write_bytes(encoded(Image.new("L", (40, 40), 0)))
    for part in sets(load(folder, size=40, channels=1)):
        for row in range(len(part)):
            picture, mask = part.images[row, 0], part.targets[row]
            assert set(np.unique(mask)) <= {0, 1}
            assert (picture == 0).all() == (mask == 0).all()


def test_subgroup_columns_follow_their_images_and_others_are_dropped(tmp_path: Path) -> None:
    lines = ["image,label,patient,Sex,name"]
    (tmp_path / "set").mkdir()
    # So many that no split consists of the bad image alone, whatever the project's key.
    for i in range(25):
        (tmp_path / "set" / f"{i}.png").write_bytes(encoded(Image.new("L", (9, 9), 10 * i)))
        lines.append(f"{i}.png,{i % 2},p{i},{'f' if i % 3 else 'm'},Quentin {i}")
    (tmp_path / "set" / "8.png").write_bytes(b"no image")
    (tmp_path / "set" / "rows.csv").write_text("\n".join(lines))
    splits = load(tmp_path / "set", size=8, channels=1, skip_bad=True)
    assert sum(map(len, sets(splits))) == 24
    for part in sets(splits):
        assert set(part.columns) == {"sex"}
        for image, sex in zip(part.images, part.columns["sex"], strict=True):
            assert sex == ("f" if (int(image[0, 0, 0]) // 10) % 3 else "m")


def names(count: int) -> list[bytes]:
    return [pseudonym(b"k", str(i)) for i in range(count)]


def test_removing_a_unit_moves_nobody_else() -> None:
    people = names(400)
    whole = dict(zip(people, assign(people, [None] * 400, "x").tolist(), strict=True))
    for gone in (0, 17, 399):
        rest = [who for who in people if who != people[gone]]
        assert assign(rest, [None] * 399, "x").tolist() == [whole[who] for who in rest]
    # Binomial(400, 0.8): outside 260..372 with probability below 1e-10, and the seed is fixed.
    assert 260 < list(whole.values()).count(0) < 372


def test_units_stay_on_one_side_and_seeds_differ() -> None:
    people = [who for who in names(150) for _ in range(3)]
    sides = assign(people, [None] * 450, "x")
    assert (sides.reshape(150, 3) == sides[::3, None]).all()
    assert not np.array_equal(sides, assign(people, [None] * 450, "x", seed=1))
    with pytest.raises(DataError, match="2 of the units"):
        assign(names(4) + names(2), ["train"] * 4 + ["test"] * 2, "x")


def test_few_units_leave_no_side_empty() -> None:
    for count in (3, 4, 10, 50):
        assert set(assign(names(count), [None] * count, "x").tolist()) == {0, 1, 2}
    with pytest.raises(DataError, match="nobody is left"):
        assign(names(2), [None] * 2, "x")


def test_dicom_values_follow_the_standard() -> None:
    """stored·slope + intercept, then the window, then inversion for MONOCHROME1: worked out by hand."""
    stored = np.array([[0, 1000], [1024, 2000]], np.uint16)
    window = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "400"}
    # -1024 → black; -24 → (−24+160)/400·255 = 86.7; 0 → 102; 976 → white.
    expected = np.array([[0, 87], [102, 255]])
    np.testing.assert_array_equal(read_dicom(dicom(stored, **window), "x"), expected)
    inverted = dicom(stored, **window, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_dicom(inverted, "x"), 255 - expected)
    np.testing.assert_array_equal(read_dicom(dicom(stored, **window), "x", window="-160:240"), expected)
    lung = read_dicom(dicom(stored, RescaleSlope="1", RescaleIntercept="-1024"), "x", window="lung")
    np.testing.assert_array_equal(lung, [[55, 225], [230, 255]])
    # CT without a window: -1024..3071, so 0 HU is 1024/4095·255 = 63.8.
    plain = read_dicom(dicom(stored, Modality="CT", RescaleSlope="1", RescaleIntercept="-1024"), "x")
    assert plain[1, 0] == 64
    none = dicom(
        stored, Modality="CT", RescaleIntercept="-1024", RescaleSlope="1", WindowCenter="0", WindowWidth="0"
    )
    np.testing.assert_array_equal(read_dicom(none, "x"), plain)
    full = read_dicom(dicom(np.array([[0, 65535]], np.uint16)), "x")
    np.testing.assert_array_equal(full, [[0, 255]])


COMPRESSED = ("MR_small_RLE.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm")


@pytest.mark.parametrize("name", [*COMPRESSED, "CT_small.dcm", "MR_small.dcm", "MR_small_jp2klossless.dcm"])
def test_pydicoms_own_files(name: str) -> None:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not ship {name}")
    pixels = read_dicom(Path(str(path)).read_bytes(), name)
    assert pixels.dtype == np.uint8 and len(np.unique(pixels)) >= 2
    if name.startswith("MR_small_"):
        plain = Path(str(get_testdata_file("MR_small.dcm", download=False))).read_bytes()
        np.testing.assert_array_equal(pixels, read_dicom(plain, "MR_small.dcm"))


def test_real_ct_slices_and_their_mask_agree(shared_data: Path) -> None:
    from confide.data.sources import ZipSource
    from confide.data.volumes import read_volume

    source = ZipSource(shared_data / "ircadb-ct-sample.zip")
    mask = read_volume(source.read("3Dircadb1.1/ircad_e01_liver.nii.gz"), "liver")
    shown = read_dicom(source.read("3Dircadb1.1/PATIENT_DICOM/image_80"), "80", window="-1000:1000")
    liver = shown[np.rot90(mask[:, :, 80]) > 0]
    # DATA.md: median 112 HU, 5 % 66, 95 % 147; one grey level is 7.8 HU.
    low, middle, high = np.percentile(liver, [5, 50, 95]) / 255 * 2000 - 1000
    assert (abs(middle - 112) < 16, abs(low - 66) < 24, abs(high - 147) < 24) == (True, True, True)


def test_volumes_become_slices_with_the_patient_as_unit(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for who in range(5):
        mask = (np.random.default_rng().random((16, 16, 4)) > 0.5).astype(np.uint8)
        image = np.where(mask, 260.0, -140.0).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", mask)):
            (tmp_path / folder / f"{who}.nii.gz").write_bytes(volume(array))
    splits = load(tmp_path, size=16)
    assert splits.train.unit is PrivacyUnit.PATIENT
    assert sum(part.n_units for part in sets(splits)) == 5
    assert sum(map(len, sets(splits))) == 20
    for part in sets(splits):
        # The abdomen window is 60 ± 200 HU, so image and mask are the same picture.
        np.testing.assert_array_equal(np.asarray(part.images[:, 0]) // 255, part.targets)


def test_the_cache_follows_the_content(tmp_path: Path, own_folders: Path) -> None:
    folder = good_folder(tmp_path / "set")
    first = load(folder, size=16, channels=1)
    changed = folder / "train" / "ill" / "train-ill-0.png"
    changed.write_bytes(encoded(Image.new("L", (40, 40), 7)))
    second = load(folder, size=16, channels=1)
    assert first.fingerprint != second.fingerprint
    assert (second.train.images == 7).all((1, 2, 3)).sum() == 1
    assert len(list((own_folders / "cache").iterdir())) == 2


def test_a_changed_label_or_patient_is_no_cached_one(tmp_path: Path) -> None:
    folder = table_set(tmp_path / "set", HEAD + ROWS)
    first = load(folder, size=16)
    (folder / "labels.csv").write_text(HEAD + ROWS.replace("0.png,0", "0.png,1"))
    relabelled = load(folder, size=16)
    assert relabelled.fingerprint != first.fingerprint
    assert relabelled.train.targets.sum() == first.train.targets.sum() + 1
    (folder / "labels.csv").write_text(HEAD + ROWS.replace("p1", "p0"))
    assert load(folder, size=16).train.n_units == 1


WRITER = """
import os, signal, sys
import confide.data.cache as cache
from confide.data.catalog import load
before = cache.EntryWriter.add
def add(self, record, *rest):
    before(self, record, *rest)
    if record == int(sys.argv[2]):
        for file in self._files.values():
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
cache.EntryWriter.add = add
load(sys.argv[1], size=16)
"""


def test_a_killed_writer_leaves_no_entry(tmp_path: Path, own_folders: Path) -> None:
    folder = good_folder(tmp_path / "set")
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(folder), "20"], env=dict(os.environ), check=False
    )
    assert done.returncode == -signal.SIGKILL
    left = list((own_folders / "cache").iterdir())
    assert [path.suffix for path in left] == [".part"]
    assert len(load(folder, size=16).train) == 12
    assert [path.suffix for path in (own_folders / "cache").iterdir()] == [""]


def test_a_damaged_entry_is_made_again(tmp_path: Path, own_folders: Path) -> None:
    folder = good_folder(tmp_path / "set")
    load(folder, size=16)
    (entry,) = (own_folders / "cache").iterdir()
    os.truncate(entry / "images.bin", 100)
    assert len(load(folder, size=16).train) == 12


def test_a_set_of_ones_own_is_named_by_a_keyed_digest(tmp_path: Path, own_folders: Path) -> None:
    import hashlib

    arrays = {
        f"{s}_{k}": np.zeros((4, 6, 6) if k == "images" else (4, 1), np.uint8)
        for s in ("train", "val", "test")
        for k in ("images", "labels")
    }
    np.savez(tmp_path / "own.npz", **arrays)  # pyright: ignore[reportArgumentType]
    first = load(tmp_path / "own.npz").fingerprint
    assert first == load(tmp_path / "own.npz").fingerprint
    assert hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest() not in first
    (own_folders / "project.key").unlink()
    assert load(tmp_path / "own.npz").fingerprint != first
    assert load("pneumoniamnist").fingerprint == load("pneumoniamnist").info.sha256


def test_the_digest_does_not_depend_on_how_images_are_read(tmp_path: Path) -> None:
    """Else the ledger would take the same people at another size for new ones, with a budget of their own."""
    folder = good_folder(tmp_path / "set")
    first = load(folder, size=16)
    assert load(folder, size=24, channels=1).fingerprint == first.fingerprint
    (folder / "train" / "ill" / "one-more.png").write_bytes(encoded(grey()))
    assert load(folder, size=16).fingerprint != first.fingerprint


def test_the_cache_is_for_its_owner(tmp_path: Path, own_folders: Path) -> None:
    load(good_folder(tmp_path / "set"), size=16)
    assert (own_folders / "cache").stat().st_mode & 0o077 == 0


def test_near_duplicates_are_found(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "set")
    twin = np.asarray(Image.open(folder / "train" / "ill" / "train-ill-3.png")).astype(int)
    lighter = Image.fromarray((twin * 0.9 + 10).round().astype(np.uint8))
    (folder / "test" / "ill" / "copy.png").write_bytes(encoded(lighter))
    splits = load(folder, size=40, channels=1)
    assert len(between(splits.train, splits.test).pairs) == 1
    assert len(between(splits.train, splits.validation).pairs) == 0


def test_the_project_key_is_secret_and_stays(own_folders: Path) -> None:
    key = project_key()
    assert key == project_key() and len(key) == 32
    assert (own_folders / "project.key").stat().st_mode & 0o077 == 0
    (own_folders / "project.key").write_bytes(b"short")
    with pytest.raises(DataError, match="32 bytes"):
        project_key()


def test_nibabel_is_the_oracle_for_rescaling() -> None:
    from confide.data.volumes import read_volume

    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -5.0)
    found = read_volume(image.to_bytes(), "x")
    np.testing.assert_allclose(found, np.arange(24).reshape(2, 3, 4) * 2.0 - 5.0)
