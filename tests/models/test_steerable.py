# SPDX-License-Identifier: Apache-2.0
"""Whole steerable networks: exactly invariant (or turning) on the grid, under the group they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.equivariant.turning import grid_symmetries, turn
from torch import nn

from confide.equivariant import (
    CyclicGroup,
    DihedralGroup,
    Group,
    SteerableConv2d,
    parse_group,
)
from confide.errors import ConfigError
from confide.models import ResNet9, ResNet18, UNet

GROUPS = ["C1", "C2", "C4", "C8", "C16", "D1", "D4", "D8", "SO2", "O2"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def shaken(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with every parameter drawn anew, biases too, so that nothing is zero by its start."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def change(model: nn.Module, x: torch.Tensor, group: Group) -> float:
    """Largest change of the scores of x over the grid's symmetries, against the size of the scores.

    Not against the distance of two images: in so narrow a network dead units can make them equal.
    """
    with torch.no_grad():
        plain = model(x)
        worst = max(float((model(turn(x, g)) - plain).abs().max()) for g, _ in grid_symmetries(group))
    return worst / float(plain.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("side", [28, 27])
@pytest.mark.parametrize("name", GROUPS)
def test_resnet9_is_invariant(name: str, side: int, dtype: torch.dtype) -> None:
    group = parse_group(name)
    assert group is not None
    model = shaken(ResNet9(3, 4, (2, 2, 4), group=group, restrict=False), dtype)
    # Global max pooling and ReLU pass errors on; images differ by about one.
    assert change(model, torch.rand(2, 3, side, side, dtype=dtype), group) < TOLERANCE[dtype] * 10


@pytest.mark.parametrize(
    "options", [{"vectors": "gated-own"}, {"vectors": "norm"}, {"frequencies": (0, 1, 2)}]
)
@pytest.mark.parametrize("name", ["SO2", "O2"])
def test_every_nonlinearity_of_vectors_is_invariant(name: str, options: dict[str, Any]) -> None:
    group = parse_group(name)
    assert group is not None
    model = shaken(ResNet9(1, 4, (2, 2, 4), group=group, **options), torch.float64)
    assert change(model, torch.rand(2, 1, 20, 20, dtype=torch.float64), group) < 1e-10


@pytest.mark.parametrize(
    "options", [{"pooling": "blur"}, {"norm_first": True}, {"scale_norm": True}, {"kernel_size": 5}]
)
def test_every_option_is_invariant(options: dict[str, Any]) -> None:
    model = shaken(ResNet9(1, 4, (2, 2, 4), group="D4", restrict=False, **options), torch.float64)
    assert change(model, torch.rand(2, 1, 20, 20, dtype=torch.float64), DihedralGroup(4)) < 1e-10


@pytest.mark.parametrize(
    ("name", "kept", "lost"),
    [
        ("C4", CyclicGroup(2), CyclicGroup(4)),
        ("D4", DihedralGroup(2), DihedralGroup(4)),
        ("C2", CyclicGroup(1), CyclicGroup(2)),
    ],
)
def test_a_restricted_network_keeps_the_subgroup_only(name: str, kept: Group, lost: Group) -> None:
    # In narrower networks dead units now and then leave nothing that could change.
    model = shaken(ResNet9(3, 4, (8, 8, 16), group=name, restrict=True), torch.float64)
    x = torch.rand(2, 3, 28, 28, dtype=torch.float64)
    assert change(model, x, kept) < 1e-10
    assert change(model, x, lost) > 0.01


@pytest.mark.parametrize(
    ("name", "still"), [("C8", "C4"), ("C16", "C8"), ("D8", "D4"), ("O2", "O2"), ("C3", "C3")]
)
def test_what_is_left_after_a_restriction(name: str, still: str) -> None:
    model = ResNet9(1, 2, (2, 2, 4), group=name)
    assert model.conv4.in_type.group == parse_group(still)  # pyright: ignore[reportAttributeAccessIssue]


def test_an_ordinary_network_is_not_invariant() -> None:
    model = shaken(ResNet9(3, 4, (4, 4, 8)), torch.float64)
    assert change(model, torch.rand(2, 3, 28, 28, dtype=torch.float64), CyclicGroup(4)) > 0.01


def test_a_noisy_basis_is_seen_in_the_whole_network() -> None:
    model = shaken(ResNet9(3, 4, (2, 2, 4), group="C4", restrict=False), torch.float64)
    for layer in model.modules():
        if isinstance(layer, SteerableConv2d):
            layer.basis += 1e-3 * torch.randn_like(layer.basis)
    assert change(model, torch.rand(2, 3, 28, 28, dtype=torch.float64), CyclicGroup(4)) > 1e-4


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", ["C4", "D4", "O2"])
def test_resnet18_is_invariant(name: str, stem: Any) -> None:
    group = parse_group(name)
    assert group is not None
    options: dict[str, Any] = {"multiplicity": "fields", "norm_groups": 2, "stem": stem}
    model = shaken(ResNet18(1, 3, (2, 2, 2, 2), group=group, **options), torch.float64)
    side = 64 if stem == "imagenet" else 24
    assert change(model, torch.rand(2, 1, side, side, dtype=torch.float64), group) < 1e-9


@pytest.mark.parametrize("side", [16, 17, 22])
@pytest.mark.parametrize("name", ["C4", "C8", "D4", "SO2", "O2"])
def test_scores_of_a_unet_turn_with_the_image(name: str, side: int) -> None:
    group = parse_group(name)
    assert group is not None
    # ELU, for a narrow network of ReLUs is dead now and then and sees no image.
    model = shaken(UNet(1, 2, (2, 2, 4), group=group, activation="elu"), torch.float64)
    x = torch.rand(1, 1, side, side, dtype=torch.float64)
    with torch.no_grad():
        plain = model(x)
        for g, _ in grid_symmetries(group):
            torch.testing.assert_close(model(turn(x, g)), turn(plain, g), rtol=0, atol=1e-10)
        assert (model(x * 2) - plain).abs().max() > 1e-6  # not for want of an image


@pytest.mark.parametrize("make", [ResNet9, ResNet18, UNet])
def test_samples_stay_apart(make: Any) -> None:
    widths = {ResNet9: (2, 2, 2), ResNet18: (2, 2, 2, 2), UNet: (2, 2)}[make]
    extra = {"multiplicity": "fields", "stem": "small"} if make is ResNet18 else {}
    model = shaken(make(1, 2, widths, group="D4", **extra), torch.float64).train()
    x = torch.rand(3, 1, 16, 16, dtype=torch.float64)
    other = x.clone()
    other[1:] *= 3
    torch.testing.assert_close(model(x)[0], model(other)[0], rtol=0, atol=1e-12)


def parameters(**options: Any) -> int:
    return sum(p.numel() for p in ResNet9(3, 8, (8, 16, 32), **options).parameters())


def test_rules_of_multiplicity() -> None:
    """By hand: 6N kernels a pair of regular fields, 6 from an image; a bias, scale and shift a field."""

    def by_hand(a: int, b: int, c: int, n: int) -> int:
        pairs = a * b + 2 * b * b + b * c + 3 * c * c
        fields = a + b + 2 * b + c + 3 * c
        return 3 * a * 6 + pairs * 6 * n + 3 * fields + 8 * c + 8

    assert parameters(group="C4", restrict=False) == by_hand(8, 16, 32, 4)
    # √(9/24) of the fields: 4, 9, 19.
    assert parameters(group="C4", restrict=False, multiplicity="parameters") == by_hand(4, 9, 19, 4)
    assert parameters(group="C8", restrict=False, multiplicity="channels") == by_hand(1, 2, 4, 8)
    with pytest.raises(ConfigError, match="'parameters'"):
        ResNet9(3, 8, group="C4", multiplicity="parameter")


@pytest.mark.parametrize(
    ("options", "paper"), [({"group": "C4", "restrict": False, "multiplicity": "parameters"}, 35_000)]
)
def test_the_published_count_of_c4(options: dict[str, Any], paper: int) -> None:
    assert abs(parameters(**options) / paper - 1) < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": "C0"}, "no N = 0"),
        ({"group": "Q4"}, "no group"),
        ({"group": "O2", "vectors": "relu"}, "vectors"),
        ({"group": "C4", "pooling": "mean"}, "pooling"),
        ({"group": "C4", "kernel_size": 4}, "cannot have side 4"),
        ({"group": "C4", "frequency_cutoff": 9}, "band limit"),
        ({"group": "O2", "frequencies": ()}, "hidden frequencies"),
        ({"group": "O2", "frequencies": (0, -1)}, "frequencies"),
        ({"group": "O2", "frequencies": (0, 5)}, "angular frequency"),
        ({"group": "O2", "frequencies": (1,)}, "share its gate"),
    ],
)
def test_what_a_group_cannot_do_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ResNet9(1, 2, (2, 2, 4), **options)
