# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: what a run looked like while it trained, one line a step or evaluation."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from confide.errors import RunError

FILE = "metrics.jsonl"


class StepLine(BaseModel):
    """One optimizer step. `loss` of a private run is the released, noised one; None if none was released."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["step"] = "step"
    step: int = Field(ge=0)
    epoch: float = Field(ge=0)
    loss: float | None = None
    epsilon: float | None = None


class EvaluationLine(BaseModel):
    """Metrics of one split after a step, and the ε spent until then; None for a run without DP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["evaluation"] = "evaluation"
    step: int = Field(ge=0)
    epoch: float = Field(ge=0)
    epsilon: float | None = None
    split: str = "validation"
    metrics: dict[str, float | None]


class DiagnosticLine(BaseModel):
    """Un-noised statistics of gradients: of public data, or of private data when the experiment asked for it.

    `public` says which; a report repeats it beside every figure drawn from these lines.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["diagnostic"] = "diagnostic"
    step: int = Field(ge=0)
    epoch: float = Field(ge=0)
    public: bool
    sparsity: float | None = None
    clip_fraction: float | None = None
    norm_edges: list[float] | None = None
    norm_counts: list[int] | None = None


Line = StepLine | EvaluationLine | DiagnosticLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="event")])


@dataclass(frozen=True)
class History:
    """All lines of a run, in order; `torn` tells that the last line was cut off by a crash."""

    steps: tuple[StepLine, ...] = ()
    evaluations: tuple[EvaluationLine, ...] = ()
    diagnostics: tuple[DiagnosticLine, ...] = ()
    torn: bool = field(default=False)

    def curve(self, metric: str, split: str = "validation") -> list[tuple[EvaluationLine, float]]:
        """The evaluations of a split that hold this metric, with its value."""
        pairs = ((line, line.metrics.get(metric)) for line in self.evaluations if line.split == split)
        return [(line, value) for line, value in pairs if value is not None]

    @property
    def last_epsilon(self) -> float | None:
        """The highest ε that any line states."""
        stated = [line.epsilon for line in (*self.steps, *self.evaluations) if line.epsilon is not None]
        return max(stated) if stated else None

    @property
    def last_step(self) -> int:
        """The highest step that any line states; 0 when there is none."""
        return max((line.step for line in (*self.steps, *self.evaluations)), default=0)


def append(folder: Path, line: Line) -> None:
    """Add one line; it reaches the operating system whole or not at all for readers of this process.

    Raises:
        ValueError: If a value is NaN or infinite: say None instead.
    """
    text = json.dumps(line.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))
    descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def parse(text: str | bytes) -> Line:
    """One line.

    Raises:
        ValidationError: If it is none of this format.
    """
    return _LINE.validate_json(text)


def load(folder: Path) -> History:
    """Read the lines of a run; an absent file is an empty history.

    A last line without its newline was cut off by a crash: it is left out and `torn` is set.

    Raises:
        RunError: If any other line is not a line of this format.
    """
    path = folder / FILE
    if not path.exists():
        return History()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError("cannot be read", where=str(path), why=str(error)) from None
    *whole, rest = text.split("\n")
    steps: list[StepLine] = []
    evaluations: list[EvaluationLine] = []
    diagnostics: list[DiagnosticLine] = []
    for number, row in enumerate(whole, start=1):
        if not row.strip():
            continue
        try:
            line = parse(row)
        except ValidationError as error:
            raise RunError(
                "is damaged or was not written by confide",
                where=f"{path}, line {number}",
                why=str(error.errors()[0]["msg"]),
                remedy="Remove that line to see the rest of the run.",
            ) from None
        match line:
            case StepLine():
                steps.append(line)
            case EvaluationLine():
                evaluations.append(line)
            case DiagnosticLine():
                diagnostics.append(line)
    return History(tuple(steps), tuple(evaluations), tuple(diagnostics), torn=bool(rest.strip()))
