# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""The data sets that confide knows by name: what is in them, whom they can protect, licence, citation, remarks."""

from __future__ import annotations

from dataclasses import replace

from confide.data.imageset import DatasetInfo
from confide.privacy.units import PrivacyUnit

_MEDMNIST = (
    "Yang J, Shi R, Wei D, et al. MedMNIST v2. Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8"
)

_NPZ = (
    DatasetInfo(
        "pneumoniamnist",
        "PneumoniaMNIST: paediatric chest X-rays, 28×28",
        ("normal", "pneumonia"),
        1,
        licence="CC BY 4.0",
        citation=f"{_MEDMNIST}; images: Kermany D, Goldbaum M, Cai W, et al. Cell 172:1122-1131 (2018), "
        "doi:10.1016/j.cell.2018.02.010",
        remarks="Put together again from two copies of the official file; 18 duplicates inside train, "
        "8 images in both train and validation. No patient ids, although several images may show one child.",
        sha256="5956be301b82a5bc6ccea28d11c18369f2335fc62af3931ad5ba7ba63f8debb1",
    ),
    DatasetInfo(
        "bloodmnist",
        "Blood cells, 28×28, own split after BloodMNIST",
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "ig",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        3,
        licence="CC BY 4.0",
        citation="Acevedo A, Merino A, Alferez S, et al. "
        "Data in Brief 30:105474 (2020), doi:10.1016/j.dib.2020.105474",
        remarks="Own split and resize, so "
        "published BloodMNIST scores are only a rough guide. No patient ids exist.",
        sha256="396946abfe7a70070b65486addcf5cc367fdcbd4cfdce9625145e34cb0a45fef",
    ),
    DatasetInfo(
        "dermamnist",
        "HAM10000 skin lesions, 28×28, split by lesion",
        ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
        3,
        units=(PrivacyUnit.LESION, PrivacyUnit.IMAGE),
        licence="CC BY-NC 4.0",
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
    ),
)

_FOLDERS = (
    DatasetInfo(
        "chest-xray-pneumonia-224",
        "Kermany's paediatric chest X-rays, 224×224",
        ("normal", "pneumonia"),
        1,
        units=(PrivacyUnit.PATIENT, PrivacyUnit.IMAGE),
        licence="CC BY 4.0",
        citation="Kermany D, Goldbaum M, Cai W, et al. Cell 172:1122-1131 (2018), doi:10.1016/j.cell.2018.02.010",
        remarks="Patient ids come from file names. 170 of them occur in both train and test, and whether the "
        "numbering starts again there is not documented: (split, id) is taken as the patient. The 16 images of "
        "the usual validation folder are missing; validation patients are drawn from train.",
        sha256="a89c26b868b4b3147ba738d92c3fef736a36269a40bc88e353ad5f0a1d851bf9",
        file="chest-xray-pneumonia-224.zip",
        layout="kermany",
    ),
    DatasetInfo(
        "kermany",
        "Kermany's paediatric chest X-rays, originals in Kaggle's folder layout",
        ("normal", "pneumonia"),
        1,
        units=(PrivacyUnit.PATIENT, PrivacyUnit.IMAGE),
        licence="CC BY 4.0",
        citation="Kermany D, Zhang K, Goldbaum M. Mendeley Data, doi:10.17632/rscbjbr9sj",
        remarks="Patient ids come from file names; (split, id) is taken as the patient.",
        file="chest_xray",
        layout="kermany",
    ),
    DatasetInfo(
        "aptos2019",
        "APTOS 2019: fundus photographs graded for diabetic retinopathy",
        ("none", "mild", "moderate", "severe", "proliferative"),
        3,
        licence="competition terms, research only",
        citation="Asia Pacific Tele-Ophthalmology Society, 2019 blindness detection challenge (Kaggle)",
        remarks="train.csv and train_images/; patients are not named, so only images can be protected.",
        file="aptos2019",
        layout="aptos",
    ),
    DatasetInfo(
        "eyepacs-dr-subset-224",
        "EyePACS subset: fundus photographs graded for diabetic retinopathy, 224×224",
        ("none", "mild", "moderate", "severe", "proliferative"),
        3,
        units=(PrivacyUnit.PATIENT, PrivacyUnit.IMAGE),
        licence="competition terms, research only; do not publish",
        citation="Cuadros J, Bresnick G. J Diabetes Sci Technol 3:509-516 (2009), doi:10.1177/193229680900300315",
        remarks="1,098 images of 549 patients, both eyes each; small and hard. Stands in for APTOS 2019.",
        sha256="b5da270b7cb67af5f3001948e78d3b8c331dc3700ffa5921566f2dcef38d8f46",
        file="eyepacs-dr-subset-224.zip",
        layout="eyepacs",
    ),
    DatasetInfo(
        "ham10000-seg",
        "HAM10000: skin lesions with their masks, 200×150",
        ("skin", "lesion"),
        3,
        task="segmentation",
        units=(PrivacyUnit.LESION, PrivacyUnit.IMAGE),
        licence="CC BY-NC 4.0",
        citation="Tschandl P, Rosendahl C, Kittler H. Scientific Data 5:180161 (2018), doi:10.1038/sdata.2018.161; "
        "masks: Tschandl P, Rinner C, Apalla Z, et al. Nature Medicine 26:1229-1234 (2020)",
        remarks="3,000 images of 2,241 lesions. A patient may have several lesions; the data do not say which.",
        sha256="ad216979a2f6f0b60c2bedfda0f03570dbd888a8ab940f8ac4a1640ae4abe079",
        file="ham10000-seg.zip",
        layout="ham10000",
    ),
    DatasetInfo(
        "chaos_liver_mr_128",
        "CHAOS: liver on abdominal MRI, 128×128 slices",
        ("background", "liver"),
        1,
        task="segmentation",
        licence="CC BY-NC-SA 4.0",
        citation="Kavur AE, Gezer NS, Barış M, et al. Medical Image Analysis 69:101950 (2021), "
        "doi:10.1016/j.media.2020.101950",
        remarks="Training slices were augmented by others and do not say which patient they show; the validation "
        "patients are probably among them. No test split: the validation slices serve as both. Says nothing "
        "sound about generalisation or patient-level privacy.",
        sha256="9445050671bda7d6a6305e4c3b505c85e34c7c6150ebeb3c4913e9a2bb83b6bf",
        layout="masks",
    ),
)

_COLON = (
    "adipose",
    "background",
    "debris",
    "lymphocytes",
    "mucus",
    "smooth muscle",
    "normal mucosa",
    "stroma",
)
_ORGANS = ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver")
_ORGANS = (*_ORGANS, "lung-left", "lung-right", "pancreas", "spleen")
_ORGANS_3D = ("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart")
_ORGANS_3D = (*_ORGANS_3D, "lung-right", "lung-left", "spleen", "pancreas")
_KIDNEY = (
    "collecting duct",
    "distal convoluted tubule",
    "glomerular endothelium",
    "interstitial endothelium",
)
_KIDNEY = (*_KIDNEY, "leukocytes", "podocytes", "proximal tubule", "thick ascending limb")
_OCT = ("neovascularization", "macular edema", "drusen", "normal")
_FRACTURES = ("buckle", "nondisplaced", "displaced")
# name, title, classes, channels, images (train, validation, test), MD5 of the 28-pixel file: the publisher's figures
_OFFICIAL = (
    (
        "pathmnist",
        "colon tissue patches",
        (*_COLON, "carcinoma"),
        3,
        (89996, 10004, 7180),
        "a8b06965200029087d5bd730944a56c1",
    ),
    ("octmnist", "retinal OCT", _OCT, 1, (97477, 10832, 1000), "c68d92d5b585d8d81f7112f81e2d0842"),
    (
        "retinamnist",
        "fundus, diabetic retinopathy grades",
        ("0", "1", "2", "3", "4"),
        3,
        (1080, 120, 400),
        "bd4c0672f1bba3e3a89f0e4e876791e4",
    ),
    (
        "breastmnist",
        "breast ultrasound",
        ("malignant", "normal or benign"),
        1,
        (546, 78, 156),
        "750601b1f35ba3300ea97c75c52ff8f6",
    ),
    (
        "tissuemnist",
        "kidney cortex cells",
        _KIDNEY,
        1,
        (165466, 23640, 47280),
        "ebe78ee8b05294063de985d821c1c34b",
    ),
    ("organamnist", "abdominal CT, axial", _ORGANS, 1, (34581, 6491, 17778), ""),
    ("organcmnist", "abdominal CT, coronal", _ORGANS, 1, (13000, 2392, 8268), ""),
    ("organsmnist", "abdominal CT, sagittal", _ORGANS, 1, (13940, 2452, 8829), ""),
    ("organmnist3d", "abdominal CT volumes", _ORGANS_3D, 1, (972, 161, 610), ""),
    ("nodulemnist3d", "lung nodules", ("benign", "malignant"), 1, (1158, 165, 310), ""),
    ("adrenalmnist3d", "adrenal gland shapes", ("normal", "hyperplasia"), 1, (1188, 98, 298), ""),
    ("fracturemnist3d", "rib fractures", _FRACTURES, 1, (1027, 103, 240), ""),
    ("vesselmnist3d", "brain vessel shapes", ("vessel", "aneurysm"), 1, (1335, 192, 382), ""),
    ("synapsemnist3d", "synapses of a rat brain", ("inhibitory", "excitatory"), 1, (1230, 177, 352), ""),
)


def _official(
    name: str, what: str, classes: tuple[str, ...], channels: int, counts: tuple[int, int, int], md5: str
) -> DatasetInfo:
    solid = name.endswith("3d")
    return DatasetInfo(
        name,
        f"MedMNIST+ {name}: {what}, {' / '.join(map(str, counts))} images",
        classes,
        channels,
        licence="CC BY 4.0",
        citation=_MEDMNIST,
        remarks="No patient ids, although several images may show one patient.",
        md5=md5,
        # The record of MedMNIST+, which holds all sizes: name.npz and name_64.npz, ...
        url=f"https://zenodo.org/records/10519652/files/{name}.npz?download=1",
        sizes=(28, 64) if solid else (28, 64, 128, 224),
    )


def _larger(info: DatasetInfo) -> DatasetInfo:
    """The same set at the publisher's larger sizes, where there are any; they have no groups."""
    if "mnist" not in info.name:
        return info
    url = f"https://zenodo.org/records/10519652/files/{info.name}.npz?download=1"
    return replace(info, url=url, sizes=(64, 128, 224))


# ChestMNIST is left out: its 14 labels at once are no single class.
ENTRIES: dict[str, DatasetInfo] = {
    info.name: info for info in (*map(_larger, _NPZ), *_FOLDERS, *(_official(*row) for row in _OFFICIAL))
}
