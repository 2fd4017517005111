# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.startup`: the cost of `import confide` over `import torch`, the wait for --help.

Each figure is the least of several fresh processes, interleaved: the rest is the machine's other work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

RECORD = Path(__file__).parent / "records" / "startup.json"
TIMES = 7
HELP = "from confide.cli.main import run\ntry: run(['--help'])\nexcept SystemExit: pass"
CODES = {
    "import torch": "import torch",
    "import torch, confide": "import torch, confide",
    "import torch, confide.equivariant": "import torch, confide.equivariant",
    "confide --help": HELP,
}


def seconds(code: str) -> tuple[float, float]:
    """(wall time, processor time) of a fresh process."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used


def main() -> None:
    """Measure, print, and write the record."""
    best = {name: (float("inf"), float("inf")) for name in CODES}
    for _ in range(TIMES):
        for name, code in CODES.items():
            best[name] = tuple(map(min, zip(best[name], seconds(code), strict=True)))  # type: ignore[assignment]
    over = best["import torch, confide"][1] - best["import torch"][1]
    steerable = best["import torch, confide.equivariant"][1] - best["import torch"][1]
    helped = best["confide --help"][0]
    record = {
        "title": "Starting",
        "command": "python -m benchmarks.startup",
        "setting": {"torch": torch.__version__, "machine": "2-core x86-64, CPU", "least of": TIMES},
        "columns": ["what", "wall time, s", "processor time, s"],
        "rows": [[name, round(wall, 3), round(used, 3)] for name, (wall, used) in best.items()],
        "bars": [
            f"import confide at most 0.3 s over import torch: {over:.2f} s, {_word(over <= 0.3)}",
            f"import confide.equivariant at most 0.2 s over: {steerable:.2f} s, {_word(steerable <= 0.2)}",
            f"confide --help within 1 s: {helped:.2f} s, {_word(helped <= 1)}",
        ],
        "remarks": [],
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["bars"], indent=1))


def _word(reached: bool) -> str:
    return "reached" if reached else "missed"


if __name__ == "__main__":
    main()
