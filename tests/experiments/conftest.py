# SPDX-License-Identifier: Apache-2.0
"""A small data set and a short experiment; each test has a ledger, keys and caches of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.isolation import isolate

from confide.experiments.config import Experiment


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reaches the user's own ledger, keys or caches."""
    isolate(tmp_path / "own", monkeypatch)


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """Bright and dark noisy images of 16×16, 60 patients with two each; held-out sets of 24."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, rows in (("train", 120), ("val", 24), ("test", 24)):
        labels = rng.integers(0, 2, rows)
        noise = rng.integers(0, 80, (rows, 16, 16))
        arrays[f"{split}_images"] = (noise + labels[:, None, None] * 120).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
        arrays[f"{split}_groups"] = np.arange(rows) // 2 + {"train": 0, "val": 1000, "test": 2000}[split]
    path = tmp_path / "small.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def make(small_set: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """An experiment on the small set; keywords with dots in them override."""

    def build(name: str = "run", **overrides: Any) -> Experiment:
        values: dict[str, Any] = {
            "name": name,
            "data": {"name": str(small_set)},
            "model": {"name": "resnet9", "widths": [4, 4, 8]},
            "privacy": {"noise_multiplier": 4.0, "delta": 1e-3},
            "training": {
                "batch_size": 20,
                "steps": 9,
                "optimizer": {"name": "adam", "lr": 2e-3},
                "schedule": "cosine",
                "ema": 0.9,
            },
            "evaluation": {"every_epochs": 1, "bootstrap": 20},
            "out": str(tmp_path / "runs"),
            "device": "cpu",
        }
        for key, value in overrides.items():
            place = values
            *parents, last = key.split("__")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return Experiment.parse(values)

    return build
