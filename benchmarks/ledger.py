# SPDX-License-Identifier: Apache-2.0
"""What the ledger costs: time of a lease, and of a step for several sizes of the lease.

    python benchmarks/ledger.py --folder DIR

A lease waits for two syncs of the disk, so the figures belong to the disk that DIR lies on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan

STEP_MS = 50.0


def measure(folder: Path, block: int, leases: int) -> dict[str, float]:
    """Microseconds of a lease (median, 99th percentile) and of a step (mean), and its share of a step of 50
    ms.
    """
    steps = block * leases
    plan = PrivacyPlan(2.0, 0.01, steps, 1e-5, 5000)
    leased: list[float] = []
    with Ledger.open(folder / f"ledger-{block}.sqlite") as ledger:
        ledger.register("bench", "fingerprint", plan.unit)
        reservation = ledger.reserve("bench", plan, run="bench", block=block)
        began = time.perf_counter()
        for step in range(steps):
            start = time.perf_counter()
            reservation.charge(step)
            if step % block == 0:
                leased.append(1e6 * (time.perf_counter() - start))
        each = 1e6 * (time.perf_counter() - began) / steps
    return {
        "block": block,
        "lease_median_us": round(statistics.median(leased), 1),
        "lease_p99_us": round(sorted(leased)[int(0.99 * (len(leased) - 1))], 1),
        "step_us": round(each, 2),
        "percent_of_50_ms": round(each / STEP_MS / 10, 3),
    }


def main() -> None:
    """Print a line of JSON for each size of the lease."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--leases", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for block in (1, 8, 16, 64):
            print(json.dumps(measure(Path(name), block, arguments.leases)))


if __name__ == "__main__":
    main()
