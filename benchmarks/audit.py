# SPDX-License-Identifier: Apache-2.0
"""What the audit sees of honest and of broken mechanisms: each row is real training under attack.

    python -m benchmarks.audit [--write]

The rows are those of a table of reference figures that was made with a simulated mechanism. Here canaries run
through `private_steps` itself, beside 640 real rows, and a bug is a patch of the real code.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from confide.audit.bounds import one_run_epsilon_lower_bound, plan_lower_bound
from confide.audit.rehearsal import Subject, rehearse
from confide.audit.run import audit_run
from confide.mechanisms.noise import GaussianNoise
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch
from confide.training import mechanism
from confide.training.losses import cross_entropy

RECORD = Path(__file__).parent / "records" / "audit.json"
CANARIES = 1000
LOW = PrivacyPlan.for_budget(epsilon=0.43, delta=1e-5, units=640, batch_size=64, steps=100)
MEDIUM = PrivacyPlan.for_budget(epsilon=0.98, delta=1e-5, units=640, batch_size=64, steps=100)


REMARKS = [
    "All ε at δ = 1e-5 per image under add-or-remove-one, by PLD; Poisson sampling but for the full batch.",
    "Bounds on a run: medians of 9 runs (the slow ones: 3, pneumonia: 1) of the whole plan, at 95% each.",
    "Noise, sampling and verdict: one audit of at most 200 steps, 95% over all its bounds.",
    "The reference simulated the mechanism once, with other schedules at the low claims: digits differ.",
    "The low claim is q = 0.1, T = 100, σ = 8.25. One run there scatters by about 0.2: noise / 2 is missed.",
    "Noise / 4 was found by it in 4 of 8 runs (11 of 20 of a plain simulation). The step audit finds both.",
    "The pneumonia plan's n = 5216 is declared; 640 real rows train, which the canaries do not notice.",
]


@contextmanager
def less_noise(factor: float) -> Iterator[None]:
    """The mechanism adds its noise divided by a factor."""

    def weak(stddev: float, ranks: int = 1) -> GaussianNoise:
        return GaussianNoise(stddev / factor, ranks)

    with patch.object(mechanism, "GaussianNoise", weak):
        yield


@contextmanager
def everybody() -> Iterator[None]:
    """Each unit is in each batch."""

    def all_of(sampling: object, units: int, stream: object) -> np.ndarray[Any, Any]:
        return np.arange(units, dtype=np.int64)

    with patch.object(mechanism, "draw", all_of):
        yield


@dataclass(frozen=True)
class Case:
    """A plan, the bug in its way, and the reference figures (one run; f-DP), None where there are none."""

    name: str
    plan: PrivacyPlan
    known: tuple[float, float]
    bug: Callable[[], Any] = nullcontext
    repeats: int = 9


CASES = [
    Case("full batch, μ = 1", PrivacyPlan(1.0, 1.0, 1, 1e-5, 640, sampling=FullBatch()), (1.31, 1.85)),
    Case("q = 0.1, σ = 1, T = 100", PrivacyPlan(1.0, 0.1, 100, 1e-5, 640), (1.82, 2.55)),
    Case("pneumonia, σ = 1", PrivacyPlan(1.0, 128 / 5216, 2038, 1e-5, 5216), (1.94, 2.89), repeats=1),
    Case("low claim, correct", LOW, (0.00, 0.00)),
    Case("low claim, noise / 2", LOW, (0.28, 0.36), lambda: less_noise(2)),
    Case("low claim, noise / 4", LOW, (0.44, 0.63), lambda: less_noise(4)),
    Case("low claim, noise / B = 64", LOW, (4.19, 7.86), lambda: less_noise(64), 3),
    Case("Poisson claimed, q = 1 run", MEDIUM, (3.38, 5.77), everybody, 3),
]


def subject(plan: PrivacyPlan) -> Subject:
    """A small convolutional network on 640 images of noise; what it learns is of no interest here."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 2))
    return Subject(model, (torch.randn(640, 1, 8, 8), torch.randint(0, 2, (640,))), plan, cross_entropy)


def measure(case: Case) -> list[str]:
    """One row: bounds at 95% each, medians over the repeats, and the verdict of a whole audit."""
    began = time.process_time()
    any_mechanism, f_dp, own = [], [], []
    with case.bug():
        for _ in range(case.repeats):
            seen = rehearse(subject(case.plan), canaries=CANARIES)
            given = seen.scores, seen.included
            any_mechanism.append(one_run_epsilon_lower_bound(*given, delta=case.plan.delta))
            f_dp.append(one_run_epsilon_lower_bound(*given, delta=case.plan.delta, method="f-dp"))
            own.append(plan_lower_bound(*given, case.plan))
        result = audit_run(subject(case.plan), canaries=CANARIES, steps=min(200, case.plan.steps))
    by_name = {bound.method: bound.epsilon for bound in result.bounds}
    one, other = case.known
    sampling = by_name.get("sampling")
    return [
        case.name,
        f"{case.plan.epsilon():.2f}",
        f"{median(any_mechanism):.2f} ({one:.2f})",
        f"{median(f_dp):.2f} ({other:.2f})",
        f"{median(own):.2f}",
        f"{by_name['noise']:.2f}",
        "–" if sampling is None else f"{sampling:.2f}",
        "refuted" if result.refuted else "consistent",
        f"{time.process_time() - began:.0f} s",
    ]


def main() -> None:
    """Print the table; with --write also keep it as a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(measure(case))
        print(" | ".join(rows[-1]), flush=True)
    wanted = ["consistent"] * 4 + ["refuted"] * 4
    verdicts = [row[-2] for row in rows]
    reached = "reached" if verdicts == wanted else f"MISSED: {verdicts}"
    record = {
        "title": "What an audit sees of honest and of broken mechanisms",
        "command": "python -m benchmarks.audit --write",
        "setting": {
            "torch": torch.__version__,
            "machine": f"2-core {platform.machine()}, CPU",
            "threads": 1,
            "load": "others were working",
            "canaries": CANARIES,
            "delta": 1e-5,
        },
        "columns": [
            "mechanism",
            "claimed ε",
            "one run, any mechanism (reference)",
            "one run, Gaussian curve (reference)",
            "one run, the plan's curve",
            "noise",
            "sampling",
            "verdict of confide audit",
            "CPU time",
        ],
        "rows": rows,
        "bars": [f"Honest mechanisms are consistent, every broken one is refuted: {reached}."],
        "remarks": REMARKS,
    }
    if arguments.write:
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
