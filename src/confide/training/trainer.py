# SPDX-License-Identifier: Apache-2.0
"""The loop around the steps, the same for private and plain training: schedule, average, interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    """Turns the first Ctrl-C or SIGTERM into a wish to stop between two steps.

    The second Ctrl-C interrupts at once.
    """

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


@dataclass(frozen=True)
class Schedule:
    """Learning rates as a function of the step alone: nothing looks at a score, nothing has to be saved.

    Args:
        optimizer: Its rates when this is made are the ones that `factor` multiplies.
        factor: (steps taken so far) -> multiplier of the next step's rate.
    """

    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]
    rates: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(group["lr"] for group in self.optimizer.param_groups))
        self.at(0)

    def at(self, steps: int) -> None:
        """Set the rates of the next step, after so many."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor(steps)


@dataclass
class Trainer:
    """Everything that a training run holds besides its data.

    Attributes:
        average: Averaged weights to evaluate and keep, or None.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    average: WeightAverage | None = None

    def run(
        self, steps: Iterator[AnyStep], on_step: Callable[[AnyStep], None], stop: StopRequest
    ) -> Literal["finished", "interrupted"]:
        """Take steps until there are no more or somebody asks to stop."""
        if stop.requested:
            return "interrupted"
        for step in steps:
            self.schedule.at(step.number)
            if self.average is not None:
                self.average.update(self.model)
            on_step(step)
            if stop.requested:
                return "interrupted"
        return "finished"
