# SPDX-License-Identifier: Apache-2.0
"""Cells that train nothing: what a published configuration really promises, and how a noisy image looks.

A plan needs the size of a data set and nothing of its content, so these figures are exact at paper scale on
any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from confide.errors import ConfigError
from confide.experiments.config import Experiment
from confide.experiments.sections import PrivacyConfig
from confide.experiments.sweep_grid import CellOptions
from confide.privacy.units import PrivacyUnit


def accounting(experiment: Experiment, options: CellOptions) -> dict[str, Any]:
    """ε of a cell's configuration, per image and for all images of a patient, and of local DP if used.

    Raises:
        ConfigError: If `privacy.units`, or `cell.account.pixels` of a local-DP cell, is not given.
    """
    account = options.account
    found: dict[str, Any] = {}
    privacy = experiment.privacy
    if isinstance(privacy, PrivacyConfig):
        if privacy.units is None:
            raise ConfigError("accounting without data needs privacy.units")
        from confide.experiments.planning import make_plan

        plan = make_plan(experiment, privacy.units, PrivacyUnit.IMAGE)
        found["guarantee"] = plan.guarantee(private=experiment.seed is None).to_dict()
        found["group_epsilon"] = {str(k): plan.group_epsilon(k) for k in account.group_sizes}
    if options.perturb is not None:
        from confide.mechanisms.local import LaplacePixels

        if account.pixels is None:
            raise ConfigError("accounting of local DP needs cell.account.pixels: [channels, height, width]")
        local = LaplacePixels(options.perturb.scale).epsilon(account.pixels, m=16)
        found["local_dp"] = {"pixel": local.pixel, "image": local.image, "delta": local.delta, "label": None}
        found["local_dp"]["patient"] = {str(k): k * local.image for k in account.group_sizes}
        found["local_dp"]["label_note"] = "labels are stored as they are: ε = ∞"
    return found


def looks(experiment: Experiment, options: CellOptions, work: Path) -> dict[str, Any]:
    """How a perturbed copy resembles its originals; before and after as a picture in the work folder."""
    from confide.experiments.sweep_perturb import perturbed_copy

    assert options.perturb is not None
    copy = perturbed_copy(experiment.data, options.perturb, work / "perturbed")
    picture(experiment, copy.folder, work / f"before-after-{copy.folder.name}.png")
    return {"local_dp": copy.record}


def picture(experiment: Experiment, folder: Path, path: Path, images: int = 4) -> None:
    """Originals above their perturbed copies. It stays in the work folder: licences decide who may see it."""
    import numpy as np
    from PIL import Image

    from confide.experiments.prepare import load_data

    before = load_data(experiment.data).train.images[:images]
    after = load_data(replace_name(experiment, folder).data).train.images[:images]
    rows = [np.concatenate(list(np.asarray(part)), axis=2) for part in (before, after)]
    sheet = np.concatenate(rows, axis=1).transpose(1, 2, 0)
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(path)


def replace_name(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment on a stored copy of its data."""
    data = experiment.data.model_copy(update={"name": str(folder), "size": None})
    return experiment.model_copy(update={"data": data})
