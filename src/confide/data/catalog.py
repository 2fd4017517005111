# SPDX-License-Identifier: Apache-2.0
"""How a data set is found and loaded: by catalogue name, or as a file or folder of one's own."""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path, PurePosixPath

from confide.data.arrays import load_npz, load_perturbed
from confide.data.entries import ENTRIES
from confide.data.files import Options, load_files
from confide.data.imageset import DatasetInfo
from confide.data.ingest import Progress
from confide.data.loaded import DataSplits, fingerprint
from confide.data.splits import SEED
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

__all__ = ["ENTRIES", "DataSplits", "absent", "data_folders", "find", "fingerprint", "load", "names"]
_WEIGHTS = (".pth", ".pt", ".safetensors")


def data_folders() -> list[Path]:
    """Where data sets are looked for: CONFIDE_DATA, the user's cache, beside a checkout, packaged."""
    from platformdirs import user_cache_path

    named = os.environ.get("CONFIDE_DATA")
    packaged = Path(str(resources.files("confide.data"))) / "packaged"
    # In a checkout, and only there: the larger sets that may lie beside it.
    source = Path(__file__).resolve().parents[2]
    beside = source.parents[1] / "shared" / "data"
    extra = [beside] if source.name == "src" and beside.is_dir() else []
    return [*([Path(named)] if named else []), user_cache_path("confide") / "data", *extra, packaged]


def names() -> tuple[str, ...]:
    """All catalogue names."""
    return tuple(sorted(ENTRIES))


def files_of(info: DatasetInfo, size: int | None = None) -> tuple[str, ...]:
    """The names under which an entry may lie in a data folder, the preferred first."""
    if not info.file:
        sized = size in info.sizes and size != 28
        return (f"{info.name}_{size}.npz",) if sized else (f"{info.name}.npz",)
    plain = PurePosixPath(info.file)
    if plain.suffix:
        return (info.file, plain.stem)
    return (info.file, f"{info.file}.zip", f"{info.file}.tar")


def find(name: str, size: int | None = None) -> Path | None:
    """The file or folder of a catalogue entry, if it is on this machine."""
    files = files_of(ENTRIES[name], size)
    return next(
        (path for folder in data_folders() for file in files if (path := folder / file).exists()), None
    )


def load(
    name_or_path: str | Path,
    *,
    unit: PrivacyUnit | None = None,
    size: int | None = None,
    channels: int | None = None,
    window: str | None = None,
    patients: str | None = None,
    classes: tuple[str, ...] | None = None,
    skip_bad: bool = False,
    seed: int = SEED,
    progress: Progress | None = None,
) -> DataSplits:
    """Load a data set by catalogue name, or a file, archive or folder of one's own by path.

    Args:
        unit: Whom the guarantee shall protect; default: the strongest unit that the set has ids for. size:
            Side of the square that images are resized to, default 224; of an npz file, the size that it
            has. channels: 1 or 3; default: as the catalogue says, else 3. Folders only, as are the
            following. window: What is shown black and white of DICOM files and volumes: a name of
            `confide.data.dicom.WINDOWS`, or LOW:HIGH; of volumes also "volume", each one's own percentiles.
        patients: Regular expression with one group that finds the patient in a file name.
        classes: Names of the classes in their order; of masks, of the values 0..K-1.
        skip_bad: Leave out files that cannot be used and list them in `bad`, instead of stopping.
        seed: Of the split, where nobody has split the data.
        progress: Called with (images done, images in all) while files are decoded.

    Raises:
        DataError: If it is unknown, not here, damaged, or has no ids for the unit asked.
    """
    path, known = _place(str(name_or_path), size)
    if known is None and path.is_dir():
        perturbed = load_perturbed(path, unit, size)
        if perturbed is not None:
            return perturbed
    if path.suffix == ".npz":
        return load_npz(path, known, unit, size)
    if path.suffix in _WEIGHTS:
        raise DataError(
            "holds the weights of a model, not images",
            where=str(path),
            remedy="Public weights to start from are named in training.initial_weights.",
        )
    options = Options(unit, size, channels, window, patients, classes, skip_bad, seed)
    return load_files(path, known, options, progress)


def _place(name: str, size: int | None) -> tuple[Path, DatasetInfo | None]:
    """Where a data set lies, and what the catalogue says of it."""
    known = ENTRIES.get(name) or (ENTRIES.get(name.lower()) if not Path(name).exists() else None)
    if known is not None:
        path = find(known.name, size)
        if path is None:
            raise absent(known.name, size)
        return path, known
    if Path(name).exists():
        return Path(name), None
    near = difflib.get_close_matches(name.lower(), ENTRIES, n=1)
    known_names = f"Known: {', '.join(names())}; or give the path of a file or folder."
    raise DataError(
        f"there is no data set {name!r}", remedy=f"Did you mean {near[0]!r}?" if near else known_names
    )


def absent(name: str, size: int | None = None) -> DataError:
    """The error for a set that is known but not here."""
    info = ENTRIES[name]
    file = files_of(info, size)[0]
    sized = f" --size {size}" if info.sizes and size is not None and size != info.sizes[0] else ""
    return DataError(
        f"{name!r} is known but not on this machine",
        why=f"Looked for {file} in: {', '.join(map(str, data_folders()))}.",
        remedy=f"Run: confide data fetch {name}{sized}"
        if info.url
        else f"Put {file} into a folder and name it in CONFIDE_DATA.",
    )
