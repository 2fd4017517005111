# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false
"""The non-private twin of the private loop: same data, views, loss and schedule, no clipping, no noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from confide.data.augment import Augmentation
from confide.gradients.memory import give_back_memory, keep_freed_memory
from confide.training.examples import Examples
from confide.training.losses import Loss
from confide.training.physical import Rows, Work, to_device, views_of
from confide.training.views import uniforms


@dataclass(frozen=True)
class PlainStep:
    """One finished step of ordinary training."""

    number: int
    loss: float
    batch_size: float
    epsilon: None = None
    unclipped: None = None


@dataclass
class PlainLoop:
    """Ordinary training on shuffled units; its loss is un-noised, and nothing about it is private."""

    model: nn.Module
    examples: Examples
    loss: Loss
    batch_size: int
    steps: int
    seed: int
    views: int = 1
    augmentation: Augmentation | None = None
    work: Work = field(default_factory=Work)

    def run(self, optimizer: torch.optim.Optimizer, first_step: int = 0) -> Iterator[PlainStep]:
        """Take the remaining steps."""
        if next(self.model.parameters()).device.type == "cpu":
            keep_freed_memory()  # as the engine does, so that the twins are compared on equal terms
        try:
            for number in range(first_step, self.steps):
                total = self._backward(self._drawn(number), number)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                yield PlainStep(number + 1, total, float(self.batch_size))
        finally:
            give_back_memory()

    def _drawn(self, number: int) -> Rows:
        """Rows of a step: units shuffled by a hash of the pass, so that a resumed run sees its own order."""
        n = self.examples.n_units
        a_pass = max(1, n // self.batch_size)
        order = np.argsort(uniforms(self.seed + number // a_pass, np.arange(n), 1, 1)[:, 0, 0])
        place = number % a_pass * self.batch_size
        last = number % a_pass == a_pass - 1
        chosen = order[place:] if last and n > self.batch_size else order[place : place + self.batch_size]
        return self.examples.rows_of(np.sort(chosen))[0]

    def _backward(self, rows: Rows, number: int) -> float:
        """Accumulate the gradient of the mean loss over physical batches."""
        device = next(self.model.parameters()).device
        most = max(1, self.work.physical_batch_size // self.views)
        total = 0.0
        for part in np.array_split(rows, -(-len(rows) // most)):
            batch = views_of(self.examples, part, self.views, self.augmentation, self.seed ^ (number << 20))
            losses = self.loss(self.model, to_device(batch, device))
            mean = losses.sum() / (len(rows) * self.views)
            mean.backward()
            total += float(mean.detach())
        return total
