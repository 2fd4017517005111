# SPDX-License-Identifier: Apache-2.0
"""How far a clipped sum moves when the same rows are computed in two parts: what one unit does to the others.

`python -m benchmarks.parts`; exact arithmetic would give zero. In units of the clip norm C.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workloads import Batch, machine
from confide.gradients.engine import clipped_gradient
from confide.gradients.tuning import kernels
from confide.models import ResNet9
from confide.training.losses import cross_entropy, shortened

RECORD = Path(__file__).parent / "records" / "parts.json"
NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet-9 8-16-32": {},
    "ResNet-9 64-128-256": {"widths": (64, 128, 256)},
    "ResNet-9 steerable C4": {"group": "C4", "multiplicity": "parameters"},
    "ResNet-9 steerable O(2)": {"group": "O2", "vectors": "gated-own", "multiplicity": "parameters"},
}


def clipped_sum(model: nn.Module, loss: Any, batch: Batch, **how: Any) -> Tensor:
    """All coordinates of a clipped sum, C = 1, in float64."""
    out = clipped_gradient(model, loss, batch, clip_norm=1.0, method="book-keeping", **how)
    return torch.cat([value.double().flatten() for value in out.sums.values()])


def joining(model: nn.Module, loss: Any, images: Tensor, labels: Tensor) -> float:
    """How far the others' sum moves when the last row joins them at any place, physical batches filled to
    64."""
    last = len(images) - 1

    def total(rows: list[int]) -> Tensor:
        batch = (images[rows], labels[rows])
        return clipped_sum(model, loss, batch, physical_batch_size=64, fill=True)

    others, alone = total([*range(last)]), total([last])
    orders = ([*range(place), last, *range(place, last)] for place in (0, 1, 17, last))
    return max(float((total(order) - others - alone).norm()) for order in orders)


def row(title: str, options: dict[str, Any]) -> list[Any]:
    """Movements for 63 + 1, 48 + 16 and 32 + 32 of 64 rows, the largest in each precision; and filled."""
    torch.manual_seed(0)
    model = ResNet9(3, 8, **({"widths": (8, 16, 32)} | options))
    images, labels = torch.rand(64, 3, 28, 28), torch.randint(0, 8, (64,))
    found: list[str] = []
    for loss in (cross_entropy, shortened(cross_entropy)):
        whole = clipped_sum(model, loss, (images, labels))
        moved = [
            whole
            - clipped_sum(model, loss, (images[:cut], labels[:cut]))
            - clipped_sum(model, loss, (images[cut:], labels[cut:]))
            for cut in (63, 48, 32)
        ]
        filled = joining(model, loss, images[:51], labels[:51])
        found += [f"{max(float(step.norm()) for step in moved):.1e}", f"{filled:.1e}"]
    return [title, *found]


def main() -> None:
    """Measure, and write the record."""
    torch.set_num_threads(1)
    with kernels("model"):
        rows = [row(title, options) for title, options in NETWORKS.items()]
    print(rows)
    record = {
        "title": "What rows that are computed together do to each other",
        "command": "python -m benchmarks.parts",
        "setting": {"torch": torch.__version__, "machine": machine(), "threads": 1},
        "columns": ["network", "float32 (C)", "float32, filled (C)", "bfloat16 (C)", "bfloat16, filled (C)"],
        "rows": rows,
        "bars": [],
        "remarks": [
            (
                "Norm of the difference between the clipped sum of 64 rows and that of the same rows in two "
                "parts (63 + 1, 48 + 16, 32 + 32; the largest). Exact arithmetic gives zero."
            ),
            (
                "Filled: physical batches of 64 rows, filled up with rows that count nothing. One row joins "
                "50 others at the first, second, 18th or last place; norm of what then changes besides that "
                "row's own contribution, the largest."
            ),
        ],
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
