# SPDX-License-Identifier: Apache-2.0
"""What privacy's bookkeeping adds to a step: ledger and noise beside the gradients of a ResNet-9.

    python -m benchmarks.ledger [--folder DIR]

A lease waits for two syncs of the disk, so its time belongs to the disk that DIR lies on. Gradients and noise
are compared by the processor time of one process, turn about, the least of several turns: other processes
spoil caches, and that only adds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.workloads import WORKLOADS, losses
from confide.mechanisms.clipping import FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch
from confide.training.examples import as_examples
from confide.training.mechanism import PrivateMechanism, with_releases
from confide.training.physical import Work
from confide.training.step import PrivateLoop

RECORD = Path(__file__).parent / "records" / "ledger.json"
BAR = 3.0


def lease(folder: Path, block: int, leases: int) -> dict[str, float]:
    """Microseconds of a lease (median, 99th percentile) and, spread over its steps, of a step."""
    steps = block * leases
    plan = PrivacyPlan(2.0, 0.01, steps, 1e-5, 5000)
    waited: list[float] = []
    with Ledger.open(folder / f"ledger-{block}.sqlite") as ledger:
        ledger.register("bench", "fingerprint", plan.unit)
        reservation = ledger.reserve("bench", plan, run="bench", block=block)
        for step in range(steps):
            start = time.perf_counter()
            reservation.charge(step)
            if step % block == 0:
                waited.append(1e6 * (time.perf_counter() - start))
    middle = statistics.median(waited)
    return {
        "median": middle,
        "p99": sorted(waited)[int(0.99 * (len(waited) - 1))],
        "a step": middle / block,
    }


def step(name: str, turns: int) -> tuple[float, float]:
    """Least milliseconds of processor time of one step: gradients, and noise with its division."""
    work = WORKLOADS[name]
    model = work.build()
    images, targets = work.batch()
    plan = PrivacyPlan(1.0, 1.0, 1000, 1e-5, work.rows, sampling=FullBatch())
    whole = with_releases(plan, FlatClipping(1.0), loss=True)
    mechanism = PrivateMechanism(whole, FlatClipping(1.0), RunKey.from_os())
    loop = PrivateLoop(model, as_examples((images, targets)), losses, mechanism, 1, None, Work())
    gradients: list[float] = []
    noise: list[float] = []
    for number in range(turns + 2):
        start = time.process_time()
        contribution = loop.contribution(number)
        between = time.process_time()
        mechanism.release(number, contribution)
        end = time.process_time()
        if number >= 2:  # the first chooses kernels
            gradients.append(1e3 * (between - start))
            noise.append(1e3 * (end - between))
    return min(gradients), min(noise)


def measure(folder: Path, leases: int, turns: int) -> dict[str, Any]:
    """The record."""
    block = 8
    waited = lease(folder, block, leases)
    rows: list[list[Any]] = []
    shares: list[float] = []
    for name in ("W5", "W1"):
        gradients, noise = step(name, turns)
        charge = waited["a step"] / 1e3
        share = 100 * (noise + charge) / (gradients + noise + charge)
        shares.append(share)
        size = sum(p.numel() for p in WORKLOADS[name].build().parameters())
        title = f"{WORKLOADS[name].title}, batch {WORKLOADS[name].rows}"
        rows.append([title, size, gradients, noise, charge, share])
    lasting = (
        f"A lease covers {block} steps, the least that is used. It waits {waited['median']:.0f} µs"
        f" (p99 {waited['p99']:.0f} µs) for the disk."
    )
    reached = "reached" if max(shares) < BAR else "missed"
    return {
        "title": "Ledger and noise beside a step",
        "command": "python -m benchmarks.ledger",
        "setting": {
            "torch": torch.__version__,
            "machine": "2-core x86-64, CPU",
            "threads": torch.get_num_threads(),
            "load": "others were working",
        },
        "columns": ["network", "parameters", "gradients, ms", "noise, ms", "ledger, ms", "noise + ledger, %"],
        "rows": rows,
        "bars": [
            f"ledger and noise below {BAR:g} % of a ResNet-9 step: {reached}, {max(shares):.2f} % at most"
        ],
        "remarks": [
            lasting,
            "Gradients and noise: processor time of one thread; ledger: elapsed time, over a lease's steps.",
        ],
    }


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--leases", type=int, default=200)
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        record = measure(Path(name), arguments.leases, arguments.turns)
    RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
