# SPDX-License-Identifier: Apache-2.0
"""Catalogue entries: what DATA.md and the publishers say of them, and their layouts read by name."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.builders import dicom, encoded, grey, rgb, volume

from confide.data.catalog import ENTRIES, find, load
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

FLAT = ("path", "chest", "derma", "oct", "pneumonia", "retina", "breast", "blood", "tissue")
FLAT = (*FLAT, "organa", "organc", "organs")
SOLID = ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse")


def sets(splits):
    return splits.train, splits.validation, splits.test


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that CONFIDE_DATA names."""
    monkeypatch.setenv("CONFIDE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_all_of_medmnist_is_known_at_all_its_sizes() -> None:
    names = [f"{name}mnist" for name in FLAT] + [f"{name}mnist3d" for name in SOLID]
    assert len(names) == 18
    for name in names:
        info = ENTRIES[name]
        assert info.sizes == ((28, 64) if name.endswith("3d") else (28, 64, 128, 224))
        assert len(info.md5) == len(info.sizes) == len(set(info.md5))
        assert all(len(digest) == 32 for digest in info.md5)
        assert len(info.counts) == 3 and "zenodo.org/records/10519652" in info.url
    # Sums of the publication's table: images of the 2-D sets and volumes of the 3-D sets, some since
    # corrected.
    assert sum(ENTRIES["pathmnist"].counts) == 107_180
    assert sum(ENTRIES["chestmnist"].counts) == 112_120
    assert sum(ENTRIES["nodulemnist3d"].counts) == 1_633


def test_every_entry_says_what_one_must_know() -> None:
    for name, info in ENTRIES.items():
        assert name == name.lower() == info.name
        assert info.title and info.licence and info.citation and info.remarks
        assert len(info.classes) >= 2 and info.units[-1] is PrivacyUnit.IMAGE
        assert info.mean == info.std == (0.5,) * info.channels, "constants are conventions, not statistics"
        assert not info.sizes or len(info.md5) == len(info.sizes)


# Counts of DATA.md: images of each split where it names them, units in all.
SHARED = {
    "pneumoniamnist": ((4708, 524, 624), "image", 5856),
    "bloodmnist": ((11_959, 1712, 3421), "image", 17_092),
    "dermamnist": ((7007, 1003, 2005), "lesion", 7470),
    "lc25000_colon": ((1400, 200, 400), "tile", 491),
    "chaos_liver_mr_128": ((500, 31, 31), "image", 562),
    "eyepacs-dr-subset-224": (1098, "patient", 549),
    "ircadb-ct-sample": ((40, 0, 0), "patient", 1),
}
SLOW = {
    "chest-xray-pneumonia-224": (5840, "patient", 1635 + 1211 + 202 + 225),
    "ham10000-seg": (3000, "lesion", 2241),
}


def check_shared(name: str, expected: tuple[tuple[int, ...] | int, str, int]) -> None:
    images, unit, units = expected
    splits = load(name, size=None if find(name).suffix == ".npz" else 16)  # pyright: ignore
    found = tuple(len(part) for part in sets(splits))
    assert (found if isinstance(images, tuple) else sum(found)) == images
    assert sum(found) == sum(ENTRIES[name].counts)
    assert splits.train.unit.value == unit
    assert sum(part.n_units for part in sets(splits)) == units
    assert splits.fingerprint == ENTRIES[name].sha256, "the checksum of DATA.md"


@pytest.mark.parametrize("name", SHARED)
def test_shared_sets_have_the_counts_of_their_description(name: str, shared_data: Path) -> None:
    check_shared(name, SHARED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_large_shared_sets_have_the_counts_of_their_description(name: str, shared_data: Path) -> None:
    check_shared(name, SLOW[name])


def test_every_shared_file_is_an_entry(shared_data: Path) -> None:
    known = {info.file or f"{info.name}.npz" for info in ENTRIES.values()}
    for path in shared_data.iterdir():
        # Weights are no data set, and the reserved file is not for this project.
        if path.suffix in (".npz", ".zip"):
            assert path.name in known
    with pytest.raises(DataError, match=r"weights of a model.*training\.initial_weights"):
        load(shared_data / "efficientnet-lite0-57934424.pth")


def medmnist_file(path: Path, rows: int = 6, **changed: np.ndarray) -> None:
    rng = np.random.default_rng()
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (rows, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(rows) % 7).astype(np.uint8)[:, None]
    np.savez(path, **{**arrays, **changed})  # pyright: ignore[reportArgumentType]


def test_the_publishers_file_is_not_taken_for_this_projects(house: Path) -> None:
    """DermaMNIST here is split by lesion; the official file of that name has no lesions and is split by
    image."""
    medmnist_file(house / "dermamnist.npz")
    splits = load("dermamnist")
    assert splits.train.unit is PrivacyUnit.IMAGE
    assert "publisher's own split" in splits.info.remarks and "MedMNIST+" in splits.info.title
    with pytest.raises(DataError, match="no lesion ids"):
        load("dermamnist", unit=PrivacyUnit.LESION)
    medmnist_file(house / "dermamnist_64.npz")
    with pytest.raises(DataError, match=r"dermamnist_64.*holds 28×28 images, not 64×64"):
        load("dermamnist", size=64)


def test_findings_of_a_chest_x_ray_become_any_or_none(house: Path) -> None:
    findings = np.zeros((6, 14), np.uint8)
    findings[1, 3] = findings[4, 0] = findings[4, 13] = 1
    grey_images = {f"{s}_images": np.zeros((6, 28, 28), np.uint8) for s in ("train", "val", "test")}
    labels = {f"{s}_labels": findings for s in ("train", "val", "test")}
    medmnist_file(house / "chestmnist.npz", **grey_images, **labels)
    splits = load("chestmnist")
    assert splits.train.targets.tolist() == [0, 1, 0, 0, 1, 0]
    assert splits.info.classes == ("no finding", "finding") and "14 findings" in splits.info.remarks


def test_ham10000_in_its_original_folders(house: Path) -> None:
    folder = house / "ham10000"
    for name in (
        "HAM10000_images_part_1",
        "HAM10000_images_part_2",
        "HAM10000_segmentations_lesion_tschandl",
    ):
        (folder / name).mkdir(parents=True)
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    kinds = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    for i in range(28):
        part = folder / f"HAM10000_images_part_{1 + i % 2}"
        (part / f"ISIC_{i}.jpg").write_bytes(encoded(rgb(), "JPEG"))
        mask = encoded(Image.new("L", (40, 40), 255))
        (folder / "HAM10000_segmentations_lesion_tschandl" / f"ISIC_{i}_segmentation.png").write_bytes(mask)
        lines.append(f"HAM_{i // 2},ISIC_{i},{kinds[i % 7]},histo,{5.0 * i},male,back")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(lines))
    splits = load("ham10000", size=16)
    assert splits.train.unit is PrivacyUnit.LESION
    assert sum(part.n_units for part in sets(splits)) == 14
    assert np.bincount(np.concatenate([part.targets for part in sets(splits)])).tolist() == [4] * 7
    assert set(splits.train.columns) == {"sex", "age", "localization"}
    ages = set(np.concatenate([part.columns["age"] for part in sets(splits)]).tolist())
    assert ages == {"0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 and over"}
    masks = load("ham10000-masks", size=16)
    assert all((part.targets == 1).all() for part in sets(masks))


def test_lc25000_and_the_graded_fundus_sets(house: Path) -> None:
    for kind in ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"):
        folder = house / "lung_colon_image_set" / f"{kind.split('_')[0]}_image_sets" / kind
        folder.mkdir(parents=True)
        for i in range(6):
            (folder / f"{kind}{i}.jpeg").write_bytes(encoded(rgb(), "JPEG"))
    assert sum(map(len, sets(load("lc25000", size=8)))) == 30
    for name, table, images in (("eyepacs", "trainLabels", "train"), ("aptos2019", "train", "train_images")):
        (house / name / images).mkdir(parents=True)
        lines = ["image,level" if name == "eyepacs" else "id_code,diagnosis"]
        for i in range(20):
            stem = f"{i // 2}_{'left' if i % 2 else 'right'}"
            (house / name / images / f"{stem}.png").write_bytes(encoded(rgb()))
            lines.append(f"{stem},{i % 5}")
        (house / name / f"{table}.csv").write_text("\n".join(lines))
    eyes = load("eyepacs", size=8)
    assert eyes.train.unit is PrivacyUnit.PATIENT and sum(part.n_units for part in sets(eyes)) == 10
    assert load("aptos2019", size=8).train.unit is PrivacyUnit.IMAGE


def test_chaos_takes_the_liver_out_of_four_organs(house: Path) -> None:
    for who in range(4):
        place = house / "CHAOS_Train_Sets" / "Train_Sets" / "MR" / str(who) / "T1DUAL"
        for folder in ("DICOM_anon/InPhase", "DICOM_anon/OutPhase", "Ground"):
            (place / folder).mkdir(parents=True)
        for k in range(3):
            mask = np.zeros((20, 20), np.uint8)
            mask[:5], mask[5:10], mask[10:12], mask[12:15] = 63, 126, 189, 252
            (place / "Ground" / f"IMG-1-{2 * k}.png").write_bytes(encoded(Image.fromarray(mask)))
            (place / "DICOM_anon" / "InPhase" / f"IMG-1-{2 * k}.dcm").write_bytes(dicom())
            (place / "DICOM_anon" / "OutPhase" / f"IMG-1-{2 * k + 1}.dcm").write_bytes(dicom())
    splits = load("chaos", size=20)
    assert sum(part.n_units for part in sets(splits)) == 4 and sum(map(len, sets(splits))) == 12
    assert (splits.train.targets[:, :5] == 1).all() and (splits.train.targets[:, 5:] == 0).all()
    odd = Image.fromarray(np.full((20, 20), 77, np.uint8))
    (house / "CHAOS_Train_Sets/Train_Sets/MR/0/T1DUAL/Ground/IMG-1-0.png").write_bytes(encoded(odd))
    with pytest.raises(DataError, match=r"the value 77.*0, 63, 126, 189, 252"):
        load("chaos", size=20)


def decathlon(path: Path, shape: tuple[int, ...], scan: str, patients: int = 4) -> None:
    """A task as its tar archive, with what a Macintosh leaves in such archives."""
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(f"./{path.stem}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        add("dataset.json", json.dumps({"modality": {"0": scan}, "labels": {"0": "b", "1": "t"}}).encode())
        for who in range(patients):
            image = np.random.default_rng().normal(500, 90, shape).astype(np.float32)
            add(f"imagesTr/x_{who}.nii.gz", volume(image))
            add(f"imagesTr/._x_{who}.nii.gz", b"a resource fork")
            add(
                f"labelsTr/x_{who}.nii.gz",
                volume((image.reshape(*shape[:3], -1)[..., 0] > 500).astype(np.uint8)),
            )


def test_a_decathlon_archive_is_read_without_unpacking(house: Path) -> None:
    decathlon(house / "Task09_Spleen.tar", (12, 12, 3), "CT")
    splits = load("Task09_Spleen", size=12)
    assert splits.info.name == "task09_spleen" and splits.train.unit is PrivacyUnit.PATIENT
    assert sum(part.n_units for part in sets(splits)) == 4 and sum(map(len, sets(splits))) == 12
    assert [path.name for path in house.iterdir()] == ["Task09_Spleen.tar"]
    assert "window of grey values: abdomen" in splits.declared_public
    assert (splits.train.images == 255).mean() > 0.9, "500 HU lie above the abdominal window"


def test_of_several_modalities_the_first_is_read_with_its_own_range(house: Path) -> None:
    decathlon(house / "Task05_Prostate.tar", (12, 12, 3, 2), "T2")
    splits = load("task05_prostate", size=12)
    assert "window of grey values: volume" in splits.declared_public
    bright = splits.train.images[:, 0].astype(int)
    # The median of each volume lies in the middle of its 0.5 % and 99.5 % values, not at either end.
    assert 90 < np.median(bright) < 165
    # What is bright is what the mask of the first modality says.
    assert ((bright > np.median(bright)) == (splits.train.targets == 1)).mean() > 0.8
    decathlon(house / "own.tar", (12, 12, 3, 2), "T2")
    with pytest.raises(DataError, match="expected three sizes"):
        load(house / "own.tar", size=12)


def test_the_window_is_no_part_of_whose_picture_it_is(house: Path) -> None:
    """Else the ledger would take the same patients under another window for new ones."""
    decathlon(house / "own.tar", (12, 12, 3), "CT")
    first = load(house / "own.tar", size=12, window="lung")
    second = load(house / "own.tar", size=12, window="400:600")
    assert first.fingerprint == second.fingerprint
    assert not np.array_equal(first.train.images, second.train.images)


def test_one_patient_is_not_divided(shared_data: Path) -> None:
    splits = load("ircadb-ct-sample", size=64)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 0, 0)
    # DATA.md: image and mask fit; the liver is brighter than the rest of the belly in the abdominal window.
    inside = splits.train.targets == 1
    assert 0.01 < inside.mean() < 0.5
    assert splits.train.images[:, 0][inside].mean() > splits.train.images[:, 0][~inside].mean() + 40


def test_patients_of_a_table_from_file_names_and_classes_of_masks(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = ["image,label"]
    for i in range(24):
        (tmp_path / "set" / f"p{i // 3}_{i}.png").write_bytes(encoded(grey()))
        lines.append(f"p{i // 3}_{i}.png,{'ab'[i % 2]}")
    (tmp_path / "set" / "rows.csv").write_text("\n".join(lines))
    assert load(tmp_path / "set", size=8).train.unit is PrivacyUnit.IMAGE
    splits = load(tmp_path / "set", size=8, patients=r"(p\d+)_", classes=("b", "a"))
    assert sum(part.n_units for part in sets(splits)) == 8 and splits.info.classes == ("b", "a")
    with pytest.raises(DataError, match="exactly one group"):
        load(tmp_path / "set", size=8, patients=r"p\d+_")
    for name in ("images", "masks"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        for i in range(12):
            picture = grey() if name == "images" else Image.fromarray(np.full((40, 40), i % 3, np.uint8))
            (tmp_path / "pairs" / name / f"{i}.png").write_bytes(encoded(picture))
    with pytest.raises(DataError, match="the mask holds the value 2"):
        load(tmp_path / "pairs", size=8)
    organs = load(tmp_path / "pairs", size=8, classes=("nothing", "liver", "spleen"))
    assert set(np.unique(np.concatenate([part.targets for part in sets(organs)]))) == {0, 1, 2}
    with pytest.raises(DataError, match="at least two classes"):
        load(tmp_path / "pairs", size=8, classes=("liver", "liver"))


def test_published_sets_have_their_own_patients(house: Path) -> None:
    (house / "lung_colon_image_set").mkdir()
    with pytest.raises(DataError, match="says itself who its patients"):
        load("lc25000", patients=r"(\d+)")


def test_every_option_of_reading_is_one_of_an_experiment() -> None:
    import inspect

    from confide.experiments.sections import DataConfig

    options = set(inspect.signature(load).parameters) - {"name_or_path", "progress"}
    values = {"unit": "patient", "size": 32, "channels": 1, "window": "lung", "patients": "(x)"}
    values |= {"classes": ["a", "b"], "skip_bad": True, "split_seed": 3}
    given = DataConfig(name="x", **values).reading()  # pyright: ignore[reportArgumentType]
    assert given.keys() == options
    assert (given["seed"], given["classes"], given["unit"]) == (3, ("a", "b"), PrivacyUnit.PATIENT)
    assert DataConfig(name="x").reading() == {"skip_bad": False}
