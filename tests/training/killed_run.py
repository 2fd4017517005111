# SPDX-License-Identifier: Apache-2.0
"""A private run that is killed again and again: `python -m tests.training.killed_run FOLDER KILLS`.

The run is a real one: `private_steps` charging a ledger, with checkpoints. It happens in a forked process
that writes a byte into a pipe for every gradient its optimizer is given; this process counts the bytes, kills
it at a random moment with SIGKILL, and compares with the ledger. What was counted has left the mechanism;
nothing of confide takes part in the counting.
"""

from __future__ import annotations

import json
import math
import os
import random
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from tests.training.recording import Rows, losses, small_model

from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch
from confide.training import checkpoint
from confide.training.packing import pack, unpack
from confide.training.step import private_steps

SIGMA, UNITS, DELTA = 20.0, 4, 1e-5
# Steps in a lease, and between two checkpoints.
BLOCK, EVERY = 8, 5
PLAN = PrivacyPlan(SIGMA, 1.0, 100_000, DELTA, UNITS, sampling=FullBatch())
KEY = bytes(range(32))


class Counted(torch.optim.SGD):
    """Says so before every update."""

    def __init__(self, *args: Any, pipe: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipe = pipe

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        os.write(self.pipe, b".")
        super().step()


def train(folder: Path, pipe: int) -> None:
    """Begin the run or take it up, and train until killed."""
    torch.manual_seed(0)
    rows = Rows.drawn(UNITS)
    model = small_model()
    optimizer = Counted(model.parameters(), lr=0.01, momentum=0.9, pipe=pipe)
    place, mark = folder / "checkpoint", None
    if checkpoint.exists(place):
        tensors, state = checkpoint.load(place, KEY)
        model.load_state_dict(unpack(state["model"], tensors))
        optimizer.load_state_dict(unpack(state["optimizer"], tensors))
        mark = state["mark"]
    ledger = Ledger.open(folder / "ledger.sqlite")
    ledger.register("chest", "fingerprint", PLAN.unit)
    if ledger.runs():
        reservation = ledger.resume("run", PLAN, mark=mark, block=BLOCK)
    else:
        reservation = ledger.reserve("chest", PLAN, run="run", block=BLOCK)
    steps = private_steps(
        model,
        optimizer,
        (rows.images, rows.targets),
        PLAN,
        loss=losses,
        clip_norm=1.0,
        release_loss=False,
        charge=reservation,
        first_step=reservation.charged,
    )
    for step in steps:
        if step.number % EVERY == 0:
            held: dict[str, torch.Tensor] = {}
            state = {
                "model": pack("model", model.state_dict(), held),
                "optimizer": pack("optimizer", optimizer.state_dict(), held),
                "mark": reservation.mark(),
                "step": step.number,
            }
            checkpoint.save(place, held, state, KEY)


def gaussian_delta(epsilon: float, steps: int) -> float:
    """δ(ε) of so many Gaussians of σ, by theorem 8 of Balle and Wang (2018)."""
    mu = math.sqrt(steps) / SIGMA

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


def kill_once(folder: Path) -> int:
    """Start, kill at a random moment; returns how many updates were counted."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            train(folder, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(9)
    os.close(writing)
    seen, wanted = 0, random.choice([0, random.randrange(1, 40)])
    if wanted == 0:
        # In the middle of starting: whatever comes within a moment.
        select.select([reading], [], [], random.uniform(0.0, 0.05))
    while seen < wanted:
        got = os.read(reading, wanted - seen)
        if not got:
            raise RuntimeError("the run ended by itself")
        seen += len(got)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reading, 65536):
        seen += len(part)
    os.close(reading)
    return seen


def main() -> None:
    """Kill so often, and print what was released and what was charged after each."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # the first optimizer imports half of torch
    released, account = 0, []
    for _ in range(kills):
        released += kill_once(folder)
        charged, epsilon = 0, 0.0
        if (folder / "ledger.sqlite").exists():
            with Ledger.open(folder / "ledger.sqlite") as ledger:
                if ledger.runs():
                    spent = ledger.spent("chest", DELTA)
                    charged, epsilon = spent.steps_leased, spent.epsilon
        left = gaussian_delta(epsilon, released) if released else 0.0
        account.append(
            {"released": released, "charged": charged, "epsilon": epsilon, "delta_of_released": left}
        )
    held = checkpoint.load(folder / "checkpoint", KEY)[1] if checkpoint.exists(folder / "checkpoint") else {}
    print(json.dumps({"account": account, "checkpoint": held.get("step", 0)}))


if __name__ == "__main__":
    main()
