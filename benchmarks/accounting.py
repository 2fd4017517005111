# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the accountants and of calibration: `python benchmarks/accounting.py`.

Targets: ε of 10,000 steps in under 2 s; calibration in under 10 s and under 500 MB. The import of
dp-accounting (about a second, once a process) is shown apart.
"""

from __future__ import annotations

import resource
import sys
import time

from confide.privacy import accountants
from confide.privacy.accountants import Accountant
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import PoissonSampling


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1024 if sys.platform != "darwin" else largest / 2**20


def main() -> None:
    """Print one line a case."""
    start = time.perf_counter()
    accountants.epsilon(PoissonSampling(0.5), 5.0, 1, 1e-5, 100, Accountant.PLD)
    print(f"first call, with imports: {time.perf_counter() - start:.2f} s")
    print("\nε of a plan              q        σ      steps    ε PLD      s     ε RDP      s")
    for q, sigma, steps in (
        (0.01, 1.0, 10_000),
        (0.001, 0.7, 10_000),
        (0.1, 4.0, 10_000),
        (0.001, 1.0, 100_000),
    ):
        line = f"{'':20} {q:6g} {sigma:8g} {steps:10,}"
        for named in (Accountant.PLD, Accountant.RDP):
            start = time.perf_counter()
            epsilon = accountants.epsilon(PoissonSampling(q), sigma, steps, 1e-5, 1000, named)
            line += f" {epsilon:8.4f} {time.perf_counter() - start:6.2f}"
        print(line)
    print("\ncalibration: ε       n       B    steps          σ    ε(σ)      s   peak MB")
    for epsilon, units, batch_size, steps in (
        (7.42, 11_959, 1024, 351),
        (3.0, 4708, 256, 10_000),
        (0.1, 89_996, 512, 10_000),
        (8.0, 1_281_167, 16_384, 72_000),
        (10.0, 5000, 1, 1),
    ):
        start = time.perf_counter()
        plan = PrivacyPlan.for_budget(
            epsilon=epsilon, delta=1e-7, units=units, batch_size=batch_size, steps=steps
        )
        assert plan.epsilon() <= epsilon
        facts = f"{epsilon:14g} {units:9,} {batch_size:7,} {steps:8,} {plan.noise_multiplier:10.4f}"
        print(f"{facts} {plan.epsilon():7.4f} {time.perf_counter() - start:6.2f} {peak_mb():9.0f}")


if __name__ == "__main__":
    main()
