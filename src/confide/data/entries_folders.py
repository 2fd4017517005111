# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""Published sets that come as folders or archives, each with the layout of `confide.data.layouts` that reads it."""

from __future__ import annotations

from confide.data.imageset import DatasetInfo
from confide.privacy.units import PrivacyUnit

PATIENTS = (PrivacyUnit.PATIENT, PrivacyUnit.IMAGE)
LESIONS = (PrivacyUnit.LESION, PrivacyUnit.IMAGE)
GRADES = ("none", "mild", "moderate", "severe", "proliferative")
SKIN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_KERMANY = "Kermany D, Goldbaum M, Cai W, et al. Cell 172:1122-1131 (2018), doi:10.1016/j.cell.2018.02.010"
_HAM = "Tschandl P, Rosendahl C, Kittler H. Scientific Data 5:180161 (2018), doi:10.1038/sdata.2018.161"
_HAM_MASKS = "masks: Tschandl P, Rinner C, Apalla Z, et al. Nature Medicine 26:1229-1234 (2020)"
_LESION_REMARK = "A patient may have several lesions; the data do not say which."
_CHAOS = "Kavur AE, Gezer NS, Barış M, et al. Medical Image Analysis 69:101950 (2021), doi:10.1016/j.media.2020.101950"
_DECATHLON = "Antonelli M, Reinke A, Bakas S, et al. The Medical Segmentation Decathlon. Nature Communications 13:4128 (2022), doi:10.1038/s41467-022-30695-9"

FOLDERS = (
    DatasetInfo(
        "chest-xray-pneumonia-224",
        "Kermany's paediatric chest X-rays, 224×224",
        ("normal", "pneumonia"),
        1,
        units=PATIENTS,
        licence="CC BY 4.0",
        citation=_KERMANY,
        remarks="Patient ids come from file names. 170 of them occur in both train and test, and whether the "
        "numbering starts again there is not documented: (split, id) is taken as the patient. The 16 images of "
        "the usual validation folder are missing; validation patients are drawn from train.",
        sha256="a89c26b868b4b3147ba738d92c3fef736a36269a40bc88e353ad5f0a1d851bf9",
        counts=(5216, 0, 624),
        file="chest-xray-pneumonia-224.zip",
        layout="kermany",
    ),
    DatasetInfo(
        "kermany",
        "Kermany's paediatric chest X-rays, originals in Kaggle's folder layout",
        ("normal", "pneumonia"),
        1,
        units=PATIENTS,
        licence="CC BY 4.0",
        citation=f"{_KERMANY}; Mendeley Data, doi:10.17632/rscbjbr9sj",
        remarks="Patient ids come from file names; (split, id) is taken as the patient.",
        counts=(5216, 16, 624),
        file="chest_xray",
        layout="kermany",
    ),
    DatasetInfo(
        "aptos2019",
        "APTOS 2019: fundus photographs graded for diabetic retinopathy",
        GRADES,
        3,
        licence="competition terms, research only",
        citation="Asia Pacific Tele-Ophthalmology Society, 2019 blindness detection challenge (Kaggle)",
        remarks="train.csv and train_images/; patients are not named, so only images can be protected.",
        counts=(3662,),
        file="aptos2019",
        layout="aptos",
    ),
    DatasetInfo(
        "eyepacs",
        "EyePACS, training images of the 2015 competition, in Kaggle's layout",
        GRADES,
        3,
        units=PATIENTS,
        licence="competition terms, research only",
        citation="Cuadros J, Bresnick G. J Diabetes Sci Technol 3:509-516 (2009), doi:10.1177/193229680900300315",
        remarks="trainLabels.csv and train/NUMBER_left.jpeg; the number before the eye is the patient.",
        counts=(35126,),
        file="eyepacs",
        layout="eyepacs",
    ),
    DatasetInfo(
        "eyepacs-dr-subset-224",
        "EyePACS subset: fundus photographs graded for diabetic retinopathy, 224×224",
        GRADES,
        3,
        units=PATIENTS,
        licence="competition terms, research only; do not publish",
        citation="Cuadros J, Bresnick G. J Diabetes Sci Technol 3:509-516 (2009), doi:10.1177/193229680900300315",
        remarks="1,098 images of 549 patients, both eyes each; small and hard. Stands in for APTOS 2019.",
        sha256="b5da270b7cb67af5f3001948e78d3b8c331dc3700ffa5921566f2dcef38d8f46",
        counts=(1098,),
        file="eyepacs-dr-subset-224.zip",
        layout="eyepacs",
    ),
    DatasetInfo(
        "ham10000",
        "HAM10000: dermatoscopic skin lesions, seven diagnoses, originals",
        SKIN,
        3,
        units=LESIONS,
        licence="CC BY-NC 4.0",
        citation=_HAM,
        remarks=f"HAM10000_metadata.csv and the folders of images beside it. {_LESION_REMARK}",
        counts=(10015,),
        file="ham10000",
        layout="ham10000-diagnoses",
    ),
    DatasetInfo(
        "ham10000-masks",
        "HAM10000: dermatoscopic skin lesions with their masks, originals",
        ("skin", "lesion"),
        3,
        task="segmentation",
        units=LESIONS,
        licence="CC BY-NC 4.0",
        citation=f"{_HAM}; {_HAM_MASKS}",
        remarks=f"As ham10000, with the folder of segmentations. {_LESION_REMARK}",
        counts=(10015,),
        file="ham10000",
        layout="ham10000",
    ),
    DatasetInfo(
        "ham10000-seg",
        "HAM10000: skin lesions with their masks, 200×150",
        ("skin", "lesion"),
        3,
        task="segmentation",
        units=LESIONS,
        licence="CC BY-NC 4.0",
        citation=f"{_HAM}; {_HAM_MASKS}",
        remarks=f"3,000 images of 2,241 lesions. {_LESION_REMARK}",
        sha256="ad216979a2f6f0b60c2bedfda0f03570dbd888a8ab940f8ac4a1640ae4abe079",
        counts=(3000,),
        file="ham10000-seg.zip",
        layout="ham10000",
    ),
    DatasetInfo(
        "lc25000",
        "LC25000: lung and colon tissue, five classes, originals",
        ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"),
        3,
        licence="free for AI research; no formal licence text known",
        citation="Borkowski AA, Bui MM, Thomas LB, et al. arXiv:1912.12142 (2019)",
        remarks="Blown up from 250 tiles a class by rotation and flips, and the files do not say from which: images of "
        "one tile land on both sides of any split, so scores look far better than they are, and a guarantee per image "
        "does not even protect one tile.",
        counts=(25000,),
        file="lung_colon_image_set",
        layout="lc25000",
    ),
    DatasetInfo(
        "chaos",
        "CHAOS: liver on abdominal MRI (T1-DUAL), originals",
        ("background", "liver"),
        1,
        task="segmentation",
        units=PATIENTS,
        licence="CC BY-NC-SA 4.0",
        citation=f"{_CHAOS}; data: doi:10.5281/zenodo.3362844",
        remarks="Train_Sets/MR/PATIENT/T1DUAL with DICOM_anon/ and Ground/; 20 patients. The publisher's test set has no "
        "masks, so patients of the training set are divided. The other organs of the masks count as background.",
        url="https://zenodo.org/records/3362844/files/CHAOS_Train_Sets.zip?download=1",
        file="CHAOS_Train_Sets",
        layout="chaos",
    ),
    DatasetInfo(
        "chaos_liver_mr_128",
        "CHAOS: liver on abdominal MRI, 128×128 slices",
        ("background", "liver"),
        1,
        task="segmentation",
        licence="CC BY-NC-SA 4.0",
        citation=_CHAOS,
        remarks="Training slices were augmented by others and do not say which patient they show; the validation "
        "patients are probably among them. No test split: the validation slices serve as both. Says nothing "
        "sound about generalisation or patient-level privacy.",
        sha256="9445050671bda7d6a6305e4c3b505c85e34c7c6150ebeb3c4913e9a2bb83b6bf",
        counts=(500, 31, 31),
        layout="masks",
    ),
    DatasetInfo(
        "ircadb-ct-sample",
        "3D-IRCADb-01, patient 1: 40 CT slices with the liver",
        ("background", "liver"),
        1,
        task="segmentation",
        units=PATIENTS,
        licence="CC BY-NC-ND 3.0; keep the files unmodified",
        citation="Soler L, Hostettler A, Agnus V, et al. 3D-IRCADb-01, IRCAD, Strasbourg (2010)",
        remarks="One patient, to try readers on: nothing to divide, so validation and test are empty, and nothing to "
        "train privately on.",
        sha256="2b0f703d18ee43e071f0da07557ff587ac3dd36d844d49d94414042020b3e804",
        counts=(40, 0, 0),
        window="abdomen",
        file="ircadb-ct-sample.zip",
        layout="ircadb",
    ),
)


def _task(
    number: int, organ: str, scan: str, volumes: int, classes: tuple[str, ...], md5: str, modality: str = ""
) -> DatasetInfo:
    """One task of the Medical Segmentation Decathlon; of several modalities the first is read."""
    name = f"Task{number:02d}_{organ}"
    which = f" Of its modalities {modality} is read." if modality else ""
    shades = (
        "Grey values are those of the abdominal window."
        if scan == "CT"
        else "Grey values are scaled by each volume's own percentiles."
    )
    return DatasetInfo(
        name.lower(),
        f"Decathlon {name}: {scan}, {volumes} volumes with masks",
        ("background", *classes),
        1,
        task="segmentation",
        units=PATIENTS,
        licence="CC BY-SA 4.0",
        citation=_DECATHLON,
        remarks=f"One volume is taken as one patient, and its axial slices are the images. {shades}{which}",
        counts=(volumes,),
        md5=(md5,),
        url=f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{name}.tar",
        window="abdomen" if scan == "CT" else "volume",
        file=name,
        layout="decathlon-first" if modality else "decathlon",
    )


DECATHLON = (
    _task(1, "BrainTumour", "MRI", 484, ("edema", "non-enhancing tumour", "enhancing tumour"), "240a19d752f0d9e9101544901065d872", "FLAIR"),
    _task(2, "Heart", "MRI", 20, ("left atrium",), "06ee59366e1e5124267b774dbd654057"),
    _task(3, "Liver", "CT", 131, ("liver", "cancer"), "a90ec6c4aa7f6a3d087205e23d4e6397"),
    _task(4, "Hippocampus", "MRI", 260, ("anterior", "posterior"), "9d24dba78a72977dbd1d2e110310f31b"),
    _task(5, "Prostate", "MRI", 32, ("peripheral zone", "transition zone"), "35138f08b1efaef89d7424d2bcc928db", "T2"),
    _task(6, "Lung", "CT", 63, ("cancer",), "8afd997733c7fc0432f71255ba4e52dc"),
    _task(7, "Pancreas", "CT", 281, ("pancreas", "cancer"), "4f7080cfca169fa8066d17ce6eb061e4"),
    _task(8, "HepaticVessel", "CT", 303, ("vessel", "tumour"), "641d79e80ec66453921d997fbf12a29c"),
    _task(9, "Spleen", "CT", 41, ("spleen",), "410d4a301da4e5b2f6f86ec3ddba524e"),
    _task(10, "Colon", "CT", 126, ("colon cancer",), "bad7a188931dc2f6acf72b08eb6202d0"),
)  # fmt: skip
