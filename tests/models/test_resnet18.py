# SPDX-License-Identifier: Apache-2.0
"""ResNet-18 carries torchvision's names and shapes, and takes its weights."""

from __future__ import annotations

import pytest
import torch

from confide.errors import ConfigError, ModelError
from confide.models import ResNet18, load_published


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet18, written out from its published checkpoint's rules."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.weight": (64,),
        "bn1.bias": (64,),
    }
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            shapes[f"{at}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            norms = ["bn1", "bn2"]
            if before != width:
                shapes[f"{at}.downsample.0.weight"] = (width, before, 1, 1)
                norms.append("downsample.1")
            for norm in norms:
                shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (width,)
            before = width
    return shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def test_names_and_shapes_are_torchvisions() -> None:
    model = ResNet18(in_channels=3, classes=1000)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published_shapes()
    assert sum(p.numel() for p in model.parameters()) == 11_689_512  # as published


def test_published_weights_load_and_a_new_head_stays() -> None:
    source = {name: torch.randn(shape) for name, shape in published_shapes().items()}
    source["bn1.running_mean"] = torch.zeros(64)  # a BatchNorm's statistics are passed over
    model = ResNet18(in_channels=1, classes=2)
    assert load_published(model, source) == ("fc.weight", "fc.bias")
    state = model.state_dict()
    assert torch.equal(state["layer4.0.downsample.0.weight"], source["layer4.0.downsample.0.weight"])
    assert torch.equal(state["conv1.weight"], source["conv1.weight"].sum(1, keepdim=True))


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ModelError, match="fit no part"):
        load_published(
            ResNet18(in_channels=3, classes=2, widths=(4, 4, 4, 4)), {"stem.weight": torch.zeros(1)}
        )


def test_the_small_stem_keeps_the_resolution() -> None:
    model = ResNet18(in_channels=1, classes=3, widths=(4, 8, 8, 8), stem="small")
    sizes: list[tuple[int, ...]] = []
    model.layer1.register_forward_hook(lambda _m, _x, y: sizes.append(tuple(y.shape[2:])))
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert sizes == [(28, 28)]


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ConfigError, match="'small'"):
        ResNet18(in_channels=1, classes=3, stem="smal")  # pyright: ignore[reportArgumentType]
