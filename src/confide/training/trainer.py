# SPDX-License-Identifier: Apache-2.0
"""The loop around the steps, the same for private and plain training: schedule, average, checkpoints, interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import nn

from confide.training.average import WeightAverage


class AnyStep(Protocol):
    """What the trainer reads of a private or plain step."""

    @property
    def number(self) -> int:
        """Steps taken so far."""
        ...

    @property
    def loss(self) -> float | None:
        """The loss that may be shown."""
        ...

    @property
    def unclipped(self) -> float | None:
        """Released share of unclipped units."""
        ...


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop between two steps; the second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> StopRequest:
        # Signal handlers belong to the main thread; elsewhere nobody can press Ctrl-C.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass
class Trainer:
    """Everything that a training run holds besides its data.

    Attributes:
        average: Averaged weights to evaluate and keep, or None.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: WeightAverage | None = None

    def run(
        self, steps: Iterator[AnyStep], on_step: Callable[[AnyStep], None], stop: StopRequest
    ) -> Literal["finished", "interrupted"]:
        """Take steps until there are no more or somebody asks to stop."""
        if stop.requested:
            return "interrupted"
        for step in steps:
            self.schedule.step()
            if self.average is not None:
                self.average.update(self.model)
            on_step(step)
            if stop.requested:
                return "interrupted"
        return "finished"
