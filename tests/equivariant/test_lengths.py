# SPDX-License-Identifier: Apache-2.0
"""Lengths against torch's own norm, in every precision, with gradients."""

from __future__ import annotations

import pytest
import torch

from confide.equivariant.lengths import lengths


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_they_and_their_gradients_are_those_of_the_norm(dim: int) -> None:
    x = torch.randn(3, 4, 2, 5, 3, dtype=torch.float64)
    x[0] = 0  # where the norm has no gradient, zero is taken
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = lengths(ours, dim), torch.linalg.vector_norm(theirs, dim=dim)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_short_numbers_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    for size in (300.0, 1e-4):
        found = lengths(torch.full((2, 1), size, dtype=dtype), 0)
        assert found.dtype == dtype
        assert float(found) == pytest.approx(size * 2**0.5, rel=0.01)
