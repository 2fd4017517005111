# SPDX-License-Identifier: Apache-2.0
"""What bfloat16 saves: plain and private steps in float32 and in mixed precision, by turns in one process.

`python -m benchmarks.precision` times gradients (clipped sums where private) in one thread; medians of
elapsed time count. Only ratios mean much on a machine that others use.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.workloads import WORKLOADS, Batch, Workload, load_now, losses, machine
from confide.gradients.engine import clipped_gradient
from confide.gradients.memory import keep_freed_memory
from confide.models import ResNet9
from confide.training.losses import shortened

RECORD = Path(__file__).parent / "records" / "precision.json"
_O2 = {"group": "O2", "vectors": "gated-own", "kernel_size": 5}
NETWORKS = {key: WORKLOADS[key] for key in ("W5", "W1", "W2b", "W3", "C4", "C8")} | {
    "O2, 238k": Workload(
        "ResNet-9 steerable O(2), 5×5", lambda: ResNet9(3, 8, (8, 16, 32), **_O2), (3, 28, 28), 64, 8
    ),
}
Step = Callable[[], object]


def steps(model: nn.Module, batch: Batch) -> dict[str, Step]:
    """Plain and private gradients, in both precisions."""

    def plain(loss: Any) -> Step:
        def step() -> None:
            loss(model, batch).mean().backward()
            model.zero_grad()

        return step

    def private(loss: Any) -> Step:
        return lambda: clipped_gradient(model, loss, batch, clip_norm=1.0)

    short = shortened(losses)
    return {
        "plain": plain(losses),
        "private": private(losses),
        "plain, bfloat16": plain(short),
        "private, bfloat16": private(short),
    }


def row(key: str, rounds: int) -> list[Any]:
    """Medians and ratios of one network."""
    workload = NETWORKS[key]
    torch.manual_seed(0)
    works = steps(workload.build(), workload.batch())
    for _ in range(2):
        for work in works.values():
            work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - began)
    plain, private, short_plain, short_private = (median(values) for values in found.values())
    return [
        key,
        f"{workload.title}, batch {workload.rows}",
        f"{private / plain:.2f}",
        f"{short_private / short_plain:.2f}",
        f"{short_plain / plain:.2f}",
        f"{short_private / private:.2f}",
    ]


def main() -> None:
    """Measure, and write the record after every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    load = load_now()
    rows: list[list[Any]] = []
    for key in NETWORKS:
        rows.append(row(key, chosen.rounds))
        print(rows[-1], flush=True)
        write(rows, load, chosen.rounds)


def write(rows: list[list[Any]], load: str, rounds: int) -> None:
    """The record, of what is measured so far."""
    record = {
        "title": "Mixed precision: private and plain gradients in float32 and bfloat16",
        "command": "python -m benchmarks.precision",
        "setting": {
            "torch": torch.__version__,
            "machine": machine(),
            "threads": 1,
            "load": load,
        },
        "columns": [
            "",
            "network",
            "private / plain, float32",
            "private / plain, bfloat16",
            "plain: bfloat16 / float32",
            "private: bfloat16 / float32",
        ],
        "rows": rows,
        "bars": [],
        "remarks": [
            (
                f"Elapsed time of forward and backward pass, median of {rounds} rounds by turns in one "
                "process; no noise, no update. bfloat16: autocast of the model's products; norms and sums "
                "stay float32."
            ),
        ],
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
