# SPDX-License-Identifier: Apache-2.0
"""Local privacy of the label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.keys import Stream
from confide.mechanisms.local_base import positive


@dataclass(frozen=True)
class RandomisedResponse:
    """A label is kept or replaced by one of the others: ε-private on its own (Warner 1965; k-ary: Kairouz
    2016)."""

    label_epsilon: float
    classes: int

    def __post_init__(self) -> None:
        positive("label_epsilon", self.label_epsilon)
        if self.classes < 2:
            raise PlanError(f"randomised response needs at least 2 classes, not {self.classes}")

    @property
    def truth(self) -> float:
        """Probability that the label is kept, rounded down: e^ε/(e^ε + K − 1)."""
        return math.nextafter(1 / (1 + (self.classes - 1) * math.exp(-self.label_epsilon)), 0)

    def perturb(self, labels: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """Labels (N,) in 0..K-1 -> labels of the same shape."""
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.classes):
            raise PlanError(f"labels must lie in 0..{self.classes - 1}")
        kept = stream.bernoulli(self.truth, len(labels))
        others = 1 + np.floor(stream.uniform(len(labels)) * (self.classes - 1)).astype(np.int64)
        return np.where(kept, labels, (labels + others) % self.classes)
