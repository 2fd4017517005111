# SPDX-License-Identifier: Apache-2.0
"""The registry refuses by name what it does not know."""

from __future__ import annotations

import pytest
import torch

from confide.errors import ConfigError
from confide.models import registry


@pytest.mark.parametrize("name", registry.names())
def test_every_model_is_built_by_name_and_scores_images(name: str) -> None:
    model = registry.build(name, in_channels=3, classes=5)
    scores = model(torch.rand(2, 3, 32, 32))
    assert scores.shape[:2] == (2, 5)


def test_a_wrong_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="resnet9"):
        registry.build("resnet-9", in_channels=1, classes=2)


def test_a_wrong_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'widths'"):
        registry.build("resnet9", in_channels=1, classes=2, width=[8, 16, 32])


@pytest.mark.parametrize(
    "options",
    [
        {"widths": [8, 16]},
        {"widths": "wide"},
        {"widths": [8, 0, 2]},
        {"widths": [8, True, 2]},
        {"activation": "rely"},
        {"norm_groups": 0},
    ],
)
def test_a_wrong_value_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        registry.build("resnet9", in_channels=1, classes=2, **options)


def test_names_are_case_blind_and_lists_are_tuples() -> None:
    model = registry.build("ResNet9", in_channels=1, classes=2, widths=[4, 4, 8])
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 2)
