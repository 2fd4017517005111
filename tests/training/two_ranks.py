# SPDX-License-Identifier: Apache-2.0
"""Run as one of two processes: `python -m tests.training.two_ranks RANK STORE OUT`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.training.recording import Case, Rows, losses, small_model

from confide.errors import InputError
from confide.mechanisms.clipping import FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.training.mechanism import PrivateMechanism
from confide.training.ranks import Ranks
from confide.training.step import private_steps

CASE = Case(per_unit=3, views=2, physical=4, steps=12)
SIGMA, CLIP, SIZE = 1.5, 0.4, 400_000


class Unsummed(Ranks):
    """A rank that keeps its share of a sum to itself."""

    def total(self, tensors: list[torch.Tensor]) -> None:
        """Leave them as they are."""


def neighbours() -> tuple[Rows, Rows]:
    """The same private rows in both processes, and their neighbour."""
    torch.manual_seed(99)
    rows = Rows.drawn(CASE.units, CASE.per_unit)
    return rows, rows.without_last()


def replayed(ranks: Ranks, case: Case) -> dict[str, Any]:
    """Both runs of a record/replay; inputs of this rank."""
    rows, neighbour = neighbours()
    key = RunKey.from_seed(31)
    tape, model = case.run(rows, key, ranks=ranks)
    again, _ = case.run(neighbour, key, ranks=ranks, script=tape.outputs)
    return {
        "inputs": tape.inputs,
        "inputs_replayed": again.inputs,
        "chosen": tape.chosen,
        "same_controls": tape.controls == again.controls,
        "weights": torch.cat([p.detach().reshape(-1) for p in model.parameters()]),
    }


def drawn(ranks: Ranks, key: RunKey, integers: int) -> torch.Tensor:
    """What a step without anybody releases, times the divisor."""
    plan = replace(PrivacyPlan(SIGMA, 0.5, 1, 1e-5, 20), integers=integers)
    mechanism = PrivateMechanism(plan, FlatClipping(CLIP), key, ranks)
    empty = mechanism.nothing({"w": torch.zeros(integers or SIZE)})
    return mechanism.release(0, empty).gradients["w"] * plan.expected_batch_size


def different_keys_are_refused() -> bool:
    model = small_model()
    plan = PrivacyPlan(1.0, 0.5, 1, 1e-5, 20)
    rows, _ = neighbours()
    try:
        private_steps(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            (rows.images, rows.targets),
            plan,
            loss=losses,
            clip_norm=1.0,
            key=RunKey.from_os(),
        )
    except InputError:
        return True
    return False


def from_other_weights(ranks: Ranks) -> torch.Tensor:
    """Weights after two steps of ranks that began with different weights."""
    model = small_model(seed=ranks.rank)
    plan = PrivacyPlan(1.0, 0.5, 2, 1e-5, 20)
    rows, _ = neighbours()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    list(private_steps(model, optimizer, (rows.images, rows.targets), plan, loss=losses, clip_norm=1.0))
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def main() -> None:
    """Do everything, in the same order on both ranks, and write what came out."""
    rank, store, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ranks = Ranks.current()
    key = ranks.shared_key()
    found = {
        "plain": replayed(ranks, CASE),
        "hardened": replayed(ranks, replace(CASE, hardened=True, steps=6)),
        "total": drawn(ranks, key, 0),
        "share": drawn(Unsummed(rank, 2), key, 0),
        "integers": drawn(ranks, key, 20_000),
        "refused": different_keys_are_refused(),
        "aligned": from_other_weights(ranks),
    }
    torch.save(found, out / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
