# SPDX-License-Identifier: Apache-2.0
"""Losses in a shorter precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from confide.training.losses import cross_entropy, shortened


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shortened_loss_keeps_the_dtype_of_a_long_model(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    batch = (torch.rand(2, 1, 2, 2, dtype=dtype), torch.tensor([0, 2]))
    exact, found = cross_entropy(model, batch), shortened(cross_entropy)(model, batch)
    assert found.dtype == dtype
    assert torch.equal(found, exact) == (dtype == torch.float64)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.0)
