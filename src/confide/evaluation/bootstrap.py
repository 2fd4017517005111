# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over privacy units: an interval that knows that images of one patient are not independent.

A replicate draws U units with replacement; a row counts as often as its unit was drawn. Every metric here is
a function of such row weights, so one call evaluates many replicates. Efron & Tibshirani (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Replicates x rows held at once: 4 million float64 are 32 MB.
_CELLS = 4_000_000

Weights = NDArray[np.float64]
Scores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        replicates: Number of replicates; 0 leaves intervals out.
        level: Coverage of the interval.
        seed: Seed of the resampling. It is not a secret: it touches finished predictions only.
    """

    replicates: int = 1000
    level: float = 0.95
    seed: int = 0

    def weights(self, unit_index: NDArray[np.int64]) -> Iterator[Weights]:
        """Row weights of the replicates, in chunks (R', N).

        Args:
            unit_index: (N,) unit of every row; any integer labels.
        """
        units, rows = np.unique(unit_index, return_inverse=True)
        generator = np.random.default_rng(self.seed)
        chunk = max(1, _CELLS // max(1, len(rows)))
        share = np.full(len(units), 1 / max(1, len(units)))
        for start in range(0, self.replicates, chunk):
            counts = generator.multinomial(len(units), share, size=min(chunk, self.replicates - start))
            yield counts[:, rows].astype(np.float64)


@dataclass(frozen=True)
class Metric:
    """A metric and its interval; NaN where undefined, and then `note` says why."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    note: str = ""

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return self.value == self.value

    def to_dict(self) -> dict[str, float | str | None]:
        """For `run.json`: NaN becomes None."""
        numbers = {name: None if number != number else number for name, number in self._numbers()}
        return {**numbers, "note": self.note}

    def _numbers(self) -> tuple[tuple[str, float], ...]:
        return (("value", self.value), ("low", self.low), ("high", self.high))

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined ({self.note})" if self.note else "undefined"
        if self.low != self.low:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def intervals(
    measure: Callable[[Weights], Scores],
    unit_index: NDArray[np.int64],
    bootstrap: Bootstrap | None,
    *,
    notes: Mapping[str, str] | None = None,
    biased: frozenset[str] = frozenset(),
) -> dict[str, Metric]:
    """Evaluate a family of weighted metrics and their intervals.

    Args:
        measure: Takes row weights (R, N) and returns name -> (R,) values, NaN where undefined.
        unit_index: (N,) unit of every row.
        bootstrap: How intervals are made; None leaves them out.
        notes: name -> why a metric is undefined.
        biased: Metrics that resampling itself raises (calibration errors: resampling adds spread within
        bins).
            Their replicates are shifted by the measured bias, else the interval would lie above the value.

    Returns:
        name -> Metric; percentile intervals over the replicates in which the metric is defined.
    """
    rows = len(unit_index)
    values = {name: float(result[0]) for name, result in measure(np.ones((1, rows))).items()}
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in values}
    if bootstrap is not None and rows:
        for weights in bootstrap.weights(unit_index):
            for name, result in measure(weights).items():
                draws[name].append(result)
    level = bootstrap.level if bootstrap is not None else 0.95
    return {
        name: _metric(value, draws[name], level, name in biased, (notes or {}).get(name, ""))
        for name, value in values.items()
    }


def _metric(value: float, draws: list[NDArray[np.float64]], level: float, biased: bool, note: str) -> Metric:
    if value != value:
        return Metric(value, note=note)
    every = np.concatenate(draws) if draws else np.empty(0)
    every = every[~np.isnan(every)]
    if not every.size:
        return Metric(value)
    if biased:
        every = np.maximum(every - (every.mean() - value), 0.0)
    low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
    return Metric(value, float(low), float(high))
