# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the accountants and of calibration: `python -m benchmarks.accounting`.

To be reached: ε of 10,000 steps in under 2 s; calibration in under 10 s and under 500 MB. The import of
dp-accounting (about a second, once a process) is done before.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from confide.privacy import accountants
from confide.privacy.accountants import Accountant
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import PoissonSampling

RECORD = Path(__file__).parent / "records" / "accounting.json"
RUNS = ((0.01, 1.0, 10_000), (0.001, 0.7, 10_000), (0.1, 4.0, 10_000), (0.001, 1.0, 100_000))
BUDGETS = (
    (7.42, 11_959, 1024, 351),
    (3.0, 4708, 256, 10_000),
    (0.1, 89_996, 512, 10_000),
    (8.0, 1_281_167, 16_384, 72_000),
    (10.0, 5000, 1, 1),
)


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1024 if sys.platform != "darwin" else largest / 2**20


def of_runs() -> list[list[Any]]:
    """ε of given noise: what, ε, seconds by PLD, seconds by RDP."""
    rows: list[list[Any]] = []
    for q, sigma, steps in RUNS:
        taken: list[float] = []
        found = 0.0
        for named in (Accountant.RDP, Accountant.PLD):
            start = time.process_time()
            found = accountants.epsilon(PoissonSampling(q), sigma, steps, 1e-5, 1000, named)
            taken.append(time.process_time() - start)
        name = f"ε at δ = 1e-5: q = {q:g}, σ = {sigma:g}, T = {steps:,}"
        rows.append([name, f"{found:.4f}", taken[1], taken[0], peak_mb()])
    return rows


def of_budgets() -> list[list[Any]]:
    """Noise of given ε."""
    rows: list[list[Any]] = []
    for epsilon, units, batch_size, steps in BUDGETS:
        start = time.process_time()
        plan = PrivacyPlan.for_budget(
            epsilon=epsilon, delta=1e-7, units=units, batch_size=batch_size, steps=steps
        )
        taken = time.process_time() - start
        assert plan.epsilon() <= epsilon
        name = f"σ for ε = {epsilon:g} at δ = 1e-7: n = {units:,}, B = {batch_size:,}, T = {steps:,}"
        rows.append([name, f"{plan.noise_multiplier:.4f}", taken, None, peak_mb()])
    return rows


def main() -> None:
    """Measure, print, and write the record."""
    accountants.epsilon(PoissonSampling(0.5), 5.0, 1, 1e-5, 100, Accountant.PLD)
    runs, budgets = of_runs(), of_budgets()
    slowest = max(row[2] for row, (_, _, steps) in zip(runs, RUNS, strict=True) if steps == 10_000)
    longest, largest = max(row[2] for row in budgets), peak_mb()
    record = {
        "title": "Accounting and calibration",
        "command": "python -m benchmarks.accounting",
        "setting": {
            "dp-accounting": metadata.version("dp-accounting"),
            "machine": "2-core x86-64, CPU",
            "threads": 1,
            "load": "others were working",
        },
        "columns": ["what", "found", "PLD, s", "RDP, s", "peak so far, MB"],
        "rows": [*runs, *budgets],
        "bars": [
            f"ε of 10,000 steps in under 2 s: {_reached(slowest, 2)}, {slowest:.2f} s at most",
            f"calibration in under 10 s: {_reached(longest, 10)}, {longest:.1f} s at most",
            f"calibration in under 500 MB: {_reached(largest, 500)}, {largest:.0f} MB at most",
        ],
        "remarks": ["Seconds of processor time. Calibration computes PLD several times and RDP first."],
    }
    RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2, ensure_ascii=False))


def _reached(value: float, bar: float) -> str:
    return "reached" if value < bar else "missed"


if __name__ == "__main__":
    main()
