# SPDX-License-Identifier: Apache-2.0
"""The progress of a run on a terminal: a bar with the loss and the ε spent, or a line an epoch in a log."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SHOWN = {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "dice": "Dice"}


class Bar:
    """A listener that draws. Where the output is no terminal it prints a line an evaluation."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=self._console,
        )
        self._task: Any = None
        self._read: Progress | None = None
        self._read_task: Any = None
        self._total = 0
        self._loss: float | None = None
        self._spent = ""

    def reading(self, done: int, total: int) -> None:
        """A bar of its own while images are decoded."""
        if not self._console.is_terminal:
            return
        if self._read is None:
            self._read = Progress(
                TextColumn("reading images"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._read_task = self._read.add_task("", total=total)
            self._read.start()
        self._read.update(self._read_task, completed=done)
        if done >= total:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._read is not None:
            self._read.stop()
            self._read = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was, whatever happened."""
        self._stop_reading()
        self._bar.stop()

    def started(self, session: Any) -> None:
        """Say what every ε on the bar is conditioned on, then start it."""
        self._total = session.total
        if session.privacy is not None:
            from confide.privacy.guarantee import delta_text

            plan = session.privacy.plan
            self._console.print(
                f"ε below is at δ = {delta_text(plan.delta)}, per {plan.unit.value}, "
                f"{plan.sampling.name} sampling, by {plan.guarantee(1).accountant.upper()}; "
                f"noise multiplier σ = {plan.noise_multiplier:.4g}",
                highlight=False,
            )
            if session.experiment.seed is not None:
                self._console.print("not private: seeded", style="bold red")
        if self._console.is_terminal:
            self._task = self._bar.add_task("", total=session.total, completed=session.progress.step, said="")
            self._bar.start()

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        """Move the bar."""
        if loss is not None:
            # The released loss carries noise of its own; the running mean is what a reader can follow.
            self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        said = [] if self._loss is None else [f"loss {self._loss:.3f}"]
        if epsilon is not None:
            from confide.privacy.guarantee import rounded_up

            said.append(f"ε ≤ {rounded_up(epsilon)}")
        self._spent = "  ".join(said)
        if self._task is not None:
            self._bar.update(self._task, completed=number, said=self._spent)

    def evaluated(self, epoch: float, metrics: dict[str, float | None]) -> None:
        """A line with the validation scores."""
        scores = [
            f"{title} {value:.3f}"
            for name, title in _SHOWN.items()
            if (value := metrics.get(name)) is not None
        ]
        line = f"epoch {epoch:6.2f}  {self._spent}  validation: {', '.join(scores)}"
        (self._bar.console if self._task is not None else self._console).print(line, highlight=False)
