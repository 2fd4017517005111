# SPDX-License-Identifier: Apache-2.0
"""MedMNIST+ (Yang et al. 2023): the twelve 2-D and six 3-D sets as their publisher offers them.

Sizes 28, 64, 128 and 224 (3-D: 28 and 64), as `name.npz`, `name_64.npz`, ... of one Zenodo record. Counts,
classes and MD5 sums are those of the publisher's package medmnist 3.0.2.
"""

from __future__ import annotations

from confide.data.imageset import DatasetInfo

CITATION = (
    "Yang J, Shi R, Wei D, et al. MedMNIST v2. Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8"
)
_REMARKS = (
    "The publisher's own split. No patient ids in the file, although several images may show one patient: "
    "a guarantee per image says little about a patient with many."
)
_FINDINGS = "The 14 findings of a picture become one label, any or none: confide trains one class an image. "


def _set(
    name: str,
    what: str,
    classes: tuple[str, ...],
    channels: int,
    counts: tuple[int, int, int],
    md5: tuple[str, ...],
    licence: str = "CC BY 4.0",
) -> DatasetInfo:
    return DatasetInfo(
        name,
        f"MedMNIST+ {name}: {what}",
        classes,
        channels,
        licence=licence,
        citation=CITATION,
        remarks=(_FINDINGS if name == "chestmnist" else "") + _REMARKS,
        counts=counts,
        md5=md5,
        url=f"https://zenodo.org/records/10519652/files/{name}.npz?download=1",
        sizes=(28, 64, 128, 224)[: len(md5)],
        layout="medmnist-findings" if name == "chestmnist" else "medmnist",
    )


_SETS = (
    _set(
        "pathmnist",
        "colon tissue patches",
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal mucosa",
            "stroma",
            "carcinoma",
        ),
        3,
        (89996, 10004, 7180),
        (
            "a8b06965200029087d5bd730944a56c1",
            "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9",
            "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
    ),
    _set(
        "chestmnist",
        "chest X-rays, any of 14 findings or none",
        ("no finding", "finding"),
        1,
        (78468, 11219, 22433),
        (
            "02c8a6516a18b556561a56cbdd36c4a8",
            "9de6cd0b934ebb5b7426cfba5efbae16",
            "db107e5590b27930b62dbaf558aebee3",
            "45bd33e6f06c3e8cdb481c74a89152aa",
        ),
    ),
    _set(
        "dermamnist",
        "skin lesions",
        ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
        3,
        (7007, 1003, 2005),
        (
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
        licence="CC BY-NC 4.0",
    ),
    _set(
        "octmnist",
        "retinal OCT",
        ("neovascularization", "macular edema", "drusen", "normal"),
        1,
        (97477, 10832, 1000),
        (
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
    ),
    _set(
        "pneumoniamnist",
        "paediatric chest X-rays",
        ("normal", "pneumonia"),
        1,
        (4708, 524, 624),
        (
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
    ),
    _set(
        "retinamnist",
        "fundus, diabetic retinopathy grades",
        ("0", "1", "2", "3", "4"),
        3,
        (1080, 120, 400),
        (
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
    ),
    _set(
        "breastmnist",
        "breast ultrasound",
        ("malignant", "normal or benign"),
        1,
        (546, 78, 156),
        (
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
    ),
    _set(
        "bloodmnist",
        "blood cells",
        ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"),
        3,
        (11959, 1712, 3421),
        (
            "7053d0359d879ad8a5505303e11de1dc",
            "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c",
            "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
    ),
    _set(
        "tissuemnist",
        "kidney cortex cells",
        (
            "collecting duct",
            "distal convoluted tubule",
            "glomerular endothelium",
            "interstitial endothelium",
            "leukocytes",
            "podocytes",
            "proximal tubule",
            "thick ascending limb",
        ),
        1,
        (165466, 23640, 47280),
        (
            "ebe78ee8b05294063de985d821c1c34b",
            "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2",
            "b077128c4a949f0a4eb01517f9037b9c",
        ),
    ),
    _set(
        "organamnist",
        "abdominal CT, axial",
        (
            "bladder",
            "femur-left",
            "femur-right",
            "heart",
            "kidney-left",
            "kidney-right",
            "liver",
            "lung-left",
            "lung-right",
            "pancreas",
            "spleen",
        ),
        1,
        (34561, 6491, 17778),
        (
            "68e3f8846a6bd62f0c9bf841c0d9eacc",
            "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60",
            "50747347e05c87dd3aaf92c49f9f3170",
        ),
    ),
    _set(
        "organcmnist",
        "abdominal CT, coronal",
        (
            "bladder",
            "femur-left",
            "femur-right",
            "heart",
            "kidney-left",
            "kidney-right",
            "liver",
            "lung-left",
            "lung-right",
            "pancreas",
            "spleen",
        ),
        1,
        (12975, 2392, 8216),
        (
            "b9ceb9546e10131b32923c5bbeaea2b1",
            "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94",
            "050f5e875dc056f6768abf94ec9995d1",
        ),
    ),
    _set(
        "organsmnist",
        "abdominal CT, sagittal",
        (
            "bladder",
            "femur-left",
            "femur-right",
            "heart",
            "kidney-left",
            "kidney-right",
            "liver",
            "lung-left",
            "lung-right",
            "pancreas",
            "spleen",
        ),
        1,
        (13932, 2452, 8827),
        (
            "9ab87b696fb54e2a387ebe992d6ed5f1",
            "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e",
            "b354719e553fbbb2513d5533f52a4cb1",
        ),
    ),
    _set(
        "organmnist3d",
        "abdominal CT volumes",
        (
            "liver",
            "kidney-right",
            "kidney-left",
            "femur-right",
            "femur-left",
            "bladder",
            "heart",
            "lung-right",
            "lung-left",
            "spleen",
            "pancreas",
        ),
        1,
        (971, 161, 610),
        ("a0c5a1ff56af4f155c46d46fbb45a2fe", "58a2205adf14a9d0a189cb06dc78bf10"),
    ),
    _set(
        "nodulemnist3d",
        "lung nodules",
        ("benign", "malignant"),
        1,
        (1158, 165, 310),
        ("8755a7e9e05a4d9ce80a24c3e7a256f3", "c47c5b7d457bf6332200d2ea6d64ecd8"),
    ),
    _set(
        "adrenalmnist3d",
        "adrenal gland shapes",
        ("normal", "hyperplasia"),
        1,
        (1188, 98, 298),
        ("bbd3c5a5576322bc4cdfea780653b1ce", "17721accfe9fb005146a47d33bc54b2f"),
    ),
    _set(
        "fracturemnist3d",
        "rib fractures",
        ("buckle", "nondisplaced", "displaced"),
        1,
        (1027, 103, 240),
        ("6aa7b0143a6b42da40027a9dda61302f", "f01d7e6316aedf4210da0da5b7437b42"),
    ),
    _set(
        "vesselmnist3d",
        "brain vessel shapes",
        ("vessel", "aneurysm"),
        1,
        (1335, 191, 382),
        ("b41fd4f7e7e2feedddb201585ecafa1b", "6bb274a8846e1097066dcd64e2c4520f"),
    ),
    _set(
        "synapsemnist3d",
        "synapses of a rat brain",
        ("inhibitory", "excitatory"),
        1,
        (1230, 177, 352),
        ("1235b78a3cd6280881dd7850a78eadb6", "43bd14ebf3af9d3dd072446fedc14d5e"),
    ),
)
OFFICIAL: dict[str, DatasetInfo] = {info.name: info for info in _SETS}
