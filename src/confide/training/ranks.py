# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Several processes, one mechanism.

Every rank draws the same batch from the same key and works on its own share of the units; every rank adds
its share of the noise from a stream of its own, with variance σ²C²/W, so that the sum over the W ranks
carries the noise once. No rank's sum leaves it without that rank's noise, except over the process group.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from confide.errors import InputError
from confide.mechanisms.keys import RunKey


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes that train one model."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The default process group's, or alone where none is initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's units: by unit number, so that a unit's rank depends on no other unit."""
        return units[units % self.world == self.rank]

    def total(self, tensors: list[Tensor]) -> None:
        """Sum tensors of one device over the ranks, in place; every rank calls it in every step, also with
        nothing sampled."""
        if self.world == 1:
            return
        # One transfer for each dtype: statistics in float64 must not be rounded to the gradients' float32.
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def shared_key(self) -> RunKey:
        """A fresh key that all ranks hold: rank 0 draws it and sends it over the process group."""
        if self.world == 1:
            return RunKey.from_os()
        drawn = torch.frombuffer(bytearray(secrets.token_bytes(32)), dtype=torch.uint8).clone()
        dist.broadcast(drawn, 0)
        return RunKey.from_bytes(bytes(drawn.tolist()))

    def require_one_key(self, key: RunKey) -> None:
        """Refuse ranks with different keys: they would not draw the same batch.

        Raises:
            InputError: On every rank, if the keys differ.
        """
        if self.world == 1:
            return
        # A stream of its own betrays nothing of the others.
        mine = torch.frombuffer(
            bytearray(key.stream("agreement", step=0).bytes(16)), dtype=torch.uint8
        ).clone()
        theirs = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(theirs, mine)
        if any(not torch.equal(mine, other) for other in theirs):
            raise InputError(
                "the processes hold different keys",
                why="Each would sample another batch.",
                remedy="Give no key: rank 0 draws one for all.",
            )

    def align(self, model: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0."""
        if self.world > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.detach(), 0)
