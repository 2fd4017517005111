# SPDX-License-Identifier: Apache-2.0
"""Convolutions of every kind against one sample at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from confide.gradients.kernels import KERNELS

PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SIZES = (7, 6, 5)
OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "dilation": 2, "padding": "same"},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "padding": "valid", "bias": False},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "groups": 2},
    {"kernel_size": 3, "groups": 4},
    {"kernel_size": 1, "stride": 2},
]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")  # of torch, for even kernels
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_convolution(dims: int, options: dict[str, Any], agrees: Any) -> None:
    agrees(PLAIN[dims - 1](4, 8, **options), torch.randn(5, 4, *SIZES[:dims]))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 2, "dilation": 2, "bias": False},
    ],
    ids=str,
)
def test_transposed(dims: int, options: dict[str, Any], agrees: Any) -> None:
    agrees(TRANSPOSED[dims - 1](4, 6, **options), torch.randn(5, 4, *SIZES[:dims]))


@pytest.mark.parametrize("kernel", [*KERNELS, "ghost"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_kernel(
    kernel: str, dims: int, transposed: bool, agrees: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIDE_KERNELS", kernel)
    kinds = TRANSPOSED if transposed else PLAIN
    for options in ({"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}):
        agrees(kinds[dims - 1](3, 5, 3, **options), torch.randn(5, 3, *SIZES[:dims]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
    side=st.integers(5, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    name=st.sampled_from([*KERNELS, "ghost"]),
)
def test_any_shape(
    channels: int,
    filters: int,
    side: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    name: str,
    agrees: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONFIDE_KERNELS", name)
    layer = nn.Conv2d(channels, filters, kernel, stride, padding, dilation)
    agrees(layer, torch.randn(5, channels, side, side + 1))
