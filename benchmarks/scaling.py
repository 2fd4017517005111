# SPDX-License-Identifier: Apache-2.0
"""How the cost of privacy grows with batch, image side and width: `python -m benchmarks.scaling`.

ResNet-9; one of the three is changed at a time. Each point gives the time of clipped sums over that of a
plain forward and backward pass, by turns in one process, and the memory of both in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch

from benchmarks.peers import SUBJECTS, Step, resident, seconds
from benchmarks.workloads import Workload, load_now, machine, resnet9

RECORD = Path(__file__).parent / "records" / "scaling.json"
BASE = (64, 28, 1)
POINTS = {
    "batch": [(rows, 28, 1) for rows in (16, 64, 256, 1024)],
    "side": [(16, side, 1) for side in (28, 64, 128, 256, 512)],
    "width": [(64, 28, width) for width in (1, 2, 4, 8)],
}


def workload(rows: int, side: int, width: int) -> Workload:
    """ResNet-9 8-16-32, `width` times as wide."""
    widths = (8 * width, 16 * width, 32 * width)
    return Workload(f"ResNet-9 ×{width}", lambda: resnet9(*widths), (3, side, side), rows, 10)


def prepared(name: str, point: tuple[int, int, int]) -> Step:
    """A step, warmed up twice."""
    torch.manual_seed(0)
    chosen = workload(*point)
    step = SUBJECTS[name](chosen.build(), chosen.batch())
    step()
    step()
    return step


def ratio(point: tuple[int, int, int], rounds: int) -> float:
    """Median time ratio of confide to plain."""
    plain, private = prepared("plain", point), prepared("confide", point)
    return median(seconds(private) / seconds(plain) for _ in range(rounds))


def peak(name: str, point: tuple[int, int, int]) -> int:
    """kB of two steps above network and batch, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--peak", name, *map(str, point)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure_peak(name: str, point: tuple[int, int, int]) -> int:
    """What the fresh process does."""
    chosen = workload(*point)
    model, batch = chosen.build(), chosen.batch()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    step = SUBJECTS[name](model, batch)
    step()
    step()
    return resident("VmHWM") - before


def main() -> None:
    """Print the curve and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--most", type=int, default=1 << 30, help="leave out points of more pixels times width²"
    )
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.peak:
        name, *point = chosen.peak
        print(measure_peak(name, tuple(map(int, point))))  # type: ignore[arg-type]
        return
    rows: list[list[object]] = []
    for what, points in POINTS.items():
        for point in points:
            if point[0] * point[1] ** 2 * point[2] ** 2 > chosen.most:
                continue
            memory = {name: peak(name, point) for name in ("plain", "confide")}
            row: list[object] = [
                what,
                *point,
                round(ratio(point, chosen.rounds), 2),
                round(memory["confide"] / memory["plain"], 2),
                memory["plain"] // 1024,
            ]
            print(*row, flush=True)
            rows.append(row)
            write(rows, chosen.rounds)


def write(rows: list[list[object]], rounds: int) -> None:
    """The record, after every point."""
    growth: list[str] = []
    for what in POINTS:
        curve = [float(str(row[4])) for row in rows if row[0] == what]
        if len(curve) > 1:
            growth.append(
                f"{what}: time ratio {curve[0]:.2f} at the smallest, {curve[-1]:.2f} at the largest"
            )
    record = {
        "title": "The cost of privacy by batch, image side and width (ResNet-9)",
        "command": "python -m benchmarks.scaling",
        "setting": {
            "torch": torch.__version__,
            "machine": machine(),
            "threads": 1,
            "load": load_now(),
        },
        "columns": ["varied", "batch", "side", "width", "time ratio", "memory ratio", "plain MB"],
        "rows": rows,
        "bars": [f"the ratio must not grow: {text}" for text in growth],
        "remarks": [
            f"Process CPU time by turns, median of {rounds}; noise of the run's key included.",
            "Memory in fresh processes, above network and batch.",
        ],
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
