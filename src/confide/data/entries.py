# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""The data sets that confide knows by name: what is in them, whom they can protect, licence, citation, remarks.

Three MedMNIST names stand for a file of this project where it is here, and for the publisher's own otherwise: see
`described`.
"""

from __future__ import annotations

from dataclasses import replace

from confide.data.entries_folders import DECATHLON, FOLDERS, SKIN
from confide.data.entries_medmnist import CITATION, OFFICIAL
from confide.data.imageset import DatasetInfo
from confide.privacy.units import PrivacyUnit

_FILES = (
    replace(
        OFFICIAL["pneumoniamnist"],
        title="PneumoniaMNIST: paediatric chest X-rays, 28×28",
        citation=f"{CITATION}; images: Kermany D, Goldbaum M, Cai W, et al. Cell 172:1122-1131 (2018), "
        "doi:10.1016/j.cell.2018.02.010",
        remarks="Put together again from two copies of the official file; 18 duplicates inside train, 8 images in both "
        "train and validation. No patient ids, although several images may show one child.",
        sha256="5956be301b82a5bc6ccea28d11c18369f2335fc62af3931ad5ba7ba63f8debb1",
    ),
    replace(
        OFFICIAL["bloodmnist"],
        title="Blood cells, 28×28, own split after BloodMNIST",
        citation="Acevedo A, Merino A, Alferez S, et al. "
        "Data in Brief 30:105474 (2020), doi:10.1016/j.dib.2020.105474",
        remarks="Own split and resize, so published BloodMNIST scores are only a rough guide. No patient ids exist.",
        sha256="396946abfe7a70070b65486addcf5cc367fdcbd4cfdce9625145e34cb0a45fef",
    ),
    replace(
        OFFICIAL["dermamnist"],
        title="HAM10000 skin lesions, 28×28, split by lesion",
        classes=SKIN,
        units=(PrivacyUnit.LESION, PrivacyUnit.IMAGE),
        citation="Tschandl P, Rosendahl C, Kittler H. "
        "Scientific Data 5:180161 (2018), doi:10.1038/sdata.2018.161",
        remarks="A patient may have several lesions; the data do not say which.",
        sha256="9bd0335196fd938ac984e5bcba0826807e6047cb8b1c77c7f944f8513a30a4f7",
    ),
    DatasetInfo(
        "lc25000_colon",
        "LC25000 colon tissue, 28×28, split by source tile",
        ("benign", "adenocarcinoma"),
        3,
        units=(PrivacyUnit.TILE, PrivacyUnit.IMAGE),
        licence="free for AI research; no formal licence text known",
        citation="Borkowski AA, Bui MM, Thomas LB, et al. arXiv:1912.12142 (2019)",
        remarks="Blown up from 250 tiles a class by rotation and flips; patients are unknown.",
        sha256="a95dca7c7222b8e464f3f2198879f12c6f0d4eec51962782e4d6f044045e2d84",
        counts=(1400, 200, 400),
    ),
)

ENTRIES: dict[str, DatasetInfo] = OFFICIAL | {info.name: info for info in (*_FILES, *FOLDERS, *DECATHLON)}


def described(info: DatasetInfo, sha256: str) -> DatasetInfo:
    """What is known of the very file of an entry: this project's or, if its checksum is another, the publisher's."""
    return OFFICIAL.get(info.name, info) if info.sha256 and sha256 != info.sha256 else info
