# SPDX-License-Identifier: Apache-2.0
"""Where the backward pass keeps what it forms."""

from __future__ import annotations

import torch
from torch import Tensor

from confide.gradients.captures import Ghost, Instantiated, Shelf


def _formed(*shape: int, dtype: torch.dtype = torch.float32) -> Instantiated:
    return Instantiated(torch.randn(*shape).to(dtype))


def _block(values: Tensor) -> int:
    return values.untyped_storage().data_ptr()


def test_small_gradients_stand_behind_each_other_in_one_block() -> None:
    shelf = Shelf.of([torch.zeros(3, 2), torch.zeros(5)], 4)
    first, second = _formed(4, 3, 2), _formed(4, 5)
    kept = [shelf.kept(first), shelf.kept(second)]
    for before, after in zip((first, second), kept, strict=True):
        assert isinstance(after, Instantiated)
        assert after is not before
        assert torch.equal(after.values, before.values)
    values = [use.values for use in kept if isinstance(use, Instantiated)]
    assert _block(values[0]) == _block(values[1])
    assert values[1].data_ptr() - values[0].data_ptr() == 4 * 6 * 4


def test_what_does_not_fit_stays_where_it_is() -> None:
    shelf = Shelf.of([torch.zeros(3)], 4)
    ghost = Ghost(torch.zeros(4, 1), torch.zeros(4, 1), lambda a, _: a, lambda a, _: a, lambda a, _: a)
    for use in (ghost, _formed(4, 3, dtype=torch.float64), _formed(4, 4)):
        assert shelf.kept(use) is use
    whole = shelf.kept(_formed(4, 3))
    again = _formed(4, 3)
    assert shelf.kept(again) is again, (
        "the block is full: a second use of a parameter would overwrite the first"
    )
    assert isinstance(whole, Instantiated)


def test_many_units_and_large_parameters_get_no_block() -> None:
    for parameter, units in ((torch.zeros(3), 64), (torch.zeros(100_000), 4)):
        use = _formed(units, parameter.numel())
        assert Shelf.of([parameter], units).kept(use) is use
