# SPDX-License-Identifier: Apache-2.0
"""What is refused before the first step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.training.recording import Rows, losses, small_model
from torch import nn

from confide.data.imageset import DatasetInfo, ImageSet
from confide.errors import InputError, ModelError
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import PrivacyUnit
from confide.training.step import private_steps

PLAN = PrivacyPlan(1.0, 0.25, 2, 1e-5, 20)
PER_PATIENT = replace(PLAN, unit=PrivacyUnit.PATIENT)


def start(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: object, plan: PrivacyPlan, **more: object
):
    return private_steps(model, optimizer, data, plan, loss=losses, clip_norm=1.0, **more)  # type: ignore[arg-type]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_claim_per_patient_needs_rows_that_say_whose_they_are() -> None:
    model, rows = small_model(), Rows.drawn(20, 2)
    tensors = (rows.images, rows.targets)
    with pytest.raises(InputError, match="no row says whose it is"):
        start(model, sgd(model), tensors, PER_PATIENT)
    with pytest.raises(InputError, match="no row says whose it is"):
        start(model, sgd(model), torch.utils.data.TensorDataset(*tensors), PER_PATIENT)
    assert len(list(start(model, sgd(model), tensors, PER_PATIENT, units=rows.units))) == 2


def test_the_units_of_a_data_set_must_be_those_of_the_claim() -> None:
    info = DatasetInfo(
        name="made",
        task="classification",
        classes=("a", "b", "c"),
        channels=1,
        **_described(),
    )
    data = ImageSet(
        np.zeros((20, 1, 6, 6), np.uint8),
        np.zeros(20, np.int64),
        np.arange(20),
        PrivacyUnit.IMAGE,
        info,
        "train",
    )
    model = small_model()
    with pytest.raises(InputError, match="per patient, the data set's units are images"):
        start(model, sgd(model), data, PER_PATIENT)
    assert len(list(start(model, sgd(model), data, PLAN))) == 2


def _described() -> dict[str, object]:
    """Whatever else a description needs, with values that play no part here."""
    import dataclasses

    needed = {
        field.name: ""
        for field in dataclasses.fields(DatasetInfo)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return {name: "" for name in needed if name not in ("name", "task", "classes", "channels")}


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = small_model(), small_model(1)
    rows = Rows.drawn(20)
    both = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    for optimizer in (sgd(other), both):
        with pytest.raises(ModelError, match="not the model's"):
            start(model, optimizer, (rows.images, rows.targets), PLAN)


def test_nothing_to_train_and_half_precision_are_refused() -> None:
    rows = Rows.drawn(20)
    model = small_model()
    optimizer = sgd(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameter"):
        start(model, optimizer, (rows.images, rows.targets), PLAN)
    half = small_model().to(torch.bfloat16)
    with pytest.raises(ModelError, match="bfloat16"):
        start(half, sgd(half), (rows.images, rows.targets), PLAN)
