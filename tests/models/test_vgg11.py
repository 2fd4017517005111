# SPDX-License-Identifier: Apache-2.0
"""VGG-11 carries the names of torchvision's vgg11_bn."""

from __future__ import annotations

import torch

from confide.models import VGG11


def test_convolutions_norms_and_head_are_named_as_published() -> None:
    model = VGG11(in_channels=3, classes=5)
    names = {name.rpartition(".")[0] for name in model.state_dict()}
    # vgg11_bn: convolutions at 0 4 8 11 15 18 22 25, a norm after each, linear layers at 0 3 6.
    convs = (0, 4, 8, 11, 15, 18, 22, 25)
    assert names == {f"features.{i + j}" for i in convs for j in (0, 1)} | {
        f"classifier.{i}" for i in (0, 3, 6)
    }
    assert model.features[25].weight.shape == (512, 512, 3, 3)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = VGG11(in_channels=3, classes=1000, hidden=4096, pool_size=7)
    assert sum(p.numel() for p in model.parameters()) == 132_868_840  # as published for vgg11_bn
