# SPDX-License-Identifier: Apache-2.0
"""The record of one cell of a grid: what results in the repository are made of.

It names no host, no user, and no path but those that the grid itself names, so that it may be published.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from confide.errors import RunError
from confide.experiments.record import RunRecord


class Point(BaseModel):
    """Scores of one split at one moment of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    epoch: float
    split: str
    epsilon: float | None = None
    metrics: dict[str, float | None]


class CellRecord(BaseModel):
    """What a cell gave.

    Attributes:
        grid, scale, cell, labels: Which cell of which grid this is.
        digest: Of all that decides the result.
        experiment: Resolved, without paths.
        options: Of the cell, see `CellOptions`.
        run: The run's record; None of a failed cell, or of a benchmark.
        curve: All evaluations, in order.
        figures: Further figures, by name.
        outside: What of this record was computed from training images outside the mechanism.
        seconds: Wall time, of this attempt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    grid: str
    scale: str | None = None
    cell: str
    labels: dict[str, str]
    digest: str
    status: Literal["finished", "failed"]
    error: str = ""
    started: datetime
    seconds: float
    machine: str = ""
    experiment: dict[str, Any]
    options: dict[str, Any] = {}
    run: RunRecord | None = None
    curve: list[Point] = []
    figures: dict[str, Any] = {}
    outside: list[str] = []

    def save(self, path: Path) -> None:
        """Write the record in one piece."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with part.open("w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=1, by_alias=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RunError: If it is missing, damaged or foreign.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise RunError("cannot be read", where=str(path), why=error.strerror or "") from None
        except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            raise RunError(
                "is damaged or no record of a cell",
                where=str(path),
                why=" ".join(str(error).split())[:200],
                remedy="Remove the file; the cell is run again.",
            ) from None

    def metric(self, name: str, split: str = "test") -> float | None:
        """A final metric; None where it was not computed."""
        found = self.run.metrics.get(split, {}).get(name) if self.run else None
        return found.value if found else None

    def interval(self, name: str, split: str = "test") -> tuple[float, float] | None:
        """The 95% interval of a final metric."""
        found = self.run.metrics.get(split, {}).get(name) if self.run else None
        return (found.low, found.high) if found and found.low is not None and found.high is not None else None

    def points(self, split: str) -> list[Point]:
        """The curve of a split; a step that was scored twice after a crash counts once."""
        return list({point.step: point for point in self.curve if point.split == split}.values())
