# SPDX-License-Identifier: Apache-2.0
"""What steerable networks cost: against ordinary ones of the same width, and private against plain steps.

    python -m benchmarks.steerable

Process CPU times, the variants of a row interleaved in one process, minima of several rounds; only their
ratios mean much on a machine that others use too. Writes `benchmarks/records/steerable.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import confide as cf
from confide.equivariant.kernels import dimension, intertwiners, kernel_basis
from confide.equivariant.layers import SteerableConv2d
from confide.models import ResNet9

BATCH = 64
ROUNDS = int(os.environ.get("CONFIDE_BENCHMARK_ROUNDS", "7"))
RECORD = Path(__file__).with_name("records") / "steerable.json"
# Options of the steerable network; widths of an ordinary one with the same channels.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "C4, 35 k": ({"group": "C4", "multiplicity": "parameters"}, (16, 36, 76)),
    "C4": ({"group": "C4"}, (32, 64, 128)),
    "C8": ({"group": "C8"}, (64, 128, 256)),
    "D4": ({"group": "D4"}, (64, 128, 256)),
    "O(2)": ({"group": "O2"}, (48, 96, 192)),
}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """(B,)."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def interleaved(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Least process CPU time of each, in seconds."""
    least = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if turn:  # the first round warms up and tunes
                least[name] = min(least[name], time.process_time() - began)
    return least


def network_row(name: str) -> list[Any]:
    """Times and ratios of one network."""
    options, widths = NETWORKS[name]
    steerable = ResNet9(3, 8, (8, 16, 32), restrict=False, **options)
    ordinary = ResNet9(3, 8, widths)
    batch = (torch.randn(BATCH, 3, 28, 28), torch.randint(8, (BATCH,)))

    def plain(model: nn.Module) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad()
            loss(model, batch).mean().backward()

        return step

    times = interleaved({
        "ordinary": plain(ordinary),
        "steerable": plain(steerable),
        "private": lambda: cf.clipped_gradient(steerable, loss, batch, clip_norm=1.0),
    })  # fmt: skip
    count = sum(p.numel() for p in steerable.parameters())
    return [
        name,
        count,
        *(round(times[key] * 1e3) for key in ("ordinary", "steerable", "private")),
        round(times["steerable"] / times["ordinary"], 2),
        round(times["private"] / times["steerable"], 2),
    ]


def slowest_basis() -> tuple[float, str]:
    """Seconds of the slowest basis that the models' layers use, built anew."""
    worst = (0.0, "")
    for group in ("C4", "C8", "C16", "D4", "D8", "SO2", "O2"):
        keys = {m.kernel_key for m in ResNet9(3, 8, group=group).modules() if isinstance(m, SteerableConv2d)}
        for key in keys:
            for cached in (kernel_basis, intertwiners, dimension):
                cached.cache_clear()
            began = time.process_time()
            kernel_basis(*key)
            worst = max(worst, (time.process_time() - began, f"{key[0]} to {key[1]}"))
    return worst


def import_seconds() -> float:
    """CPU seconds of `import confide.equivariant` after torch, the least of three fresh processes."""
    code = (
        "import time, torch; t = time.process_time(); import confide.equivariant; "
        "print(time.process_time() - t)"
    )
    run = [sys.executable, "-c", code]
    return min(float(subprocess.run(run, capture_output=True, check=True).stdout) for _ in range(3))


def epoch_row(physical: int, threads: int) -> tuple[float, float]:
    """CPU and wall seconds of a private epoch of the 35 k C4 network on 11,959 images, from steps of 1024.

    A step is clipped sums, noise and update. What is left out: loading, noise of the accountant, evaluation.
    """
    torch.set_num_threads(threads)
    options, _ = NETWORKS["C4, 35 k"]
    model = ResNet9(3, 8, (8, 16, 32), restrict=False, **options)
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-3)
    batch = (torch.randn(1024, 3, 28, 28), torch.randint(8, (1024,)))

    def step() -> None:
        found = cf.clipped_gradient(model, loss, batch, clip_norm=1.0, physical_batch_size=physical)
        for name, parameter in model.named_parameters():
            parameter.grad = (found.sums[name] + torch.randn_like(parameter)) / 1024
        optimizer.step()

    step()
    cpu, wall = [], []
    for _ in range(1 + (ROUNDS > 3)):
        began = time.process_time(), time.perf_counter()
        step()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    torch.set_num_threads(1)
    return min(cpu) * 11_959 / 1024, min(wall) * 11_959 / 1024


def bar(text: str, found: float, limit: float, unit: str = "×") -> str:
    """A bar and whether it was reached."""
    verdict = "reached" if found <= limit else "MISSED"
    return f"{text}: {verdict} ({found:.2f}{unit}; bar {limit:g}{unit})"


def single_figures() -> tuple[list[str], str]:
    """Bars of what is no row of the table, and a remark on the epoch."""
    basis, which = slowest_basis()
    cores = os.cpu_count() or 1
    seconds = {size: epoch_row(size, 1)[0] for size in (64, 128)}
    best = min(seconds, key=lambda size: seconds[size])
    cpu, wall = epoch_row(best, cores)
    shown = ", ".join(f"{size}: {value:.1f} s" for size, value in seconds.items())
    return [
        bar(f"slowest basis ({which})", basis, 0.2, " s"),
        bar("import confide.equivariant over torch", import_seconds(), 0.2, " s"),
        bar(f"private epoch of the 35 k C4 network, elapsed, {cores} threads", wall, 35, " s"),
    ], (
        "Epoch: 11,959 images in steps of 1024 with noise and update, scaled from one step. CPU seconds of "
        f"one thread by physical batch: {shown}. With {cores} threads and physical batch {best}: "
        f"{cpu:.1f} CPU s, {wall:.1f} s wall, on a machine in the state named above."
    )


def main() -> None:
    """Measure, and write the record after every row."""
    torch.set_num_threads(1)
    rows: list[list[Any]] = [network_row(name) for name in ("C4, 35 k", "C4")]
    singles, epoch = single_figures()
    write(rows, singles, epoch)
    for name in ("O(2)", "D4", "C8"):
        rows.append(network_row(name))
        write(rows, singles, epoch)


def write(rows: list[list[Any]], singles: list[str], epoch: str) -> None:
    """The record, of what is measured so far."""
    print(rows, *singles, epoch, sep="\n", flush=True)
    finite = [row for row in rows if row[0] != "O(2)"]
    text = "forward and backward against an ordinary network of the same channels"
    bars = [bar(f"{text}, C_N and D_N", max(row[5] for row in finite), 1.1)]
    bars += [bar(f"{text}, {row[0]}", row[5], 1.25) for row in rows if row[0] == "O(2)"]
    bars.append(bar("private against plain step of the same network", max(row[6] for row in rows), 1.3))
    record = {
        "title": "Steerable ResNet-9 (8-16-32 fields, no restriction, 28×28, batch 64)",
        "command": "python -m benchmarks.steerable",
        "setting": {
            "torch": torch.__version__,
            "machine": f"{os.cpu_count()}-core x86-64, CPU",
            "threads": 1,
            "load": os.environ.get("CONFIDE_BENCHMARK_LOAD", "idle"),
        },
        "columns": [
            "group",
            "parameters",
            "ordinary, same channels (ms)",
            "steerable (ms)",
            "private steerable (ms)",
            "steerable / ordinary",
            "private / plain steerable",
        ],
        "rows": rows,
        "bars": bars + singles,
        "remarks": [
            f"Process CPU times, least of {ROUNDS} interleaved rounds; the ordinary one is plain PyTorch.",
            "A private step is clipped sums of per-sample gradients; a plain step is forward and backward.",
            epoch,
        ],
    }
    RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
