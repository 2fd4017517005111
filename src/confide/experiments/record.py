# SPDX-License-Identifier: Apache-2.0
"""`run.json`: the record of a run, and the only thing that reports and model cards rest on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from confide.errors import RunError
from confide.experiments import history as history_file
from confide.experiments.history import History
from confide.experiments.predictions import Predictions
from confide.privacy.units import PrivacyUnit

FILE = "run.json"
SCHEMA = 1
Status = Literal["running", "finished", "interrupted", "exhausted", "failed"]


class Part(BaseModel):
    """One part of the record: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Measured(Part):
    """A metric with its 95% interval over privacy units; None where it is undefined, and `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


class Spent(Part):
    """What the ledger charged until the end of the run."""

    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0)
    steps: int = Field(ge=0)


class Baseline(Part):
    """What is reached without looking at an image: always the most frequent class of the test set."""

    majority_accuracy: float | None = None
    majority_class: str | None = None


class DataRecord(Part):
    """Which data, and whose."""

    name: str
    title: str = ""
    fingerprint: str
    unit: PrivacyUnit
    units: int = Field(ge=0)
    rows: dict[str, int]
    classes: list[str]
    task: Literal["classification", "segmentation"] = "classification"
    licence: str = ""
    citation: str = ""
    remarks: str = ""


class ModelRecord(Part):
    """How to build the model again, and how its input is made from pixels."""

    name: str
    options: dict[str, Any] = {}
    parameters: int = Field(ge=0)
    in_channels: int | None = None
    size: tuple[int, int] | None = Field(default=None, description="Height and width in pixels.")
    mean: list[float] | None = Field(
        default=None, description="Public normalisation constants, a value a channel, of [0, 1] pixels."
    )
    std: list[float] | None = None


class Cost(Part):
    """What the run took."""

    seconds: float | None = None
    seconds_per_step: float | None = None
    peak_memory_mb: float | None = None
    energy_wh: float | None = None
    device: str = ""


class Calibration(Part):
    """Temperature that divides the logits before the softmax, and the split it was fitted on."""

    temperature: float = Field(gt=0)
    fitted_on: str = "validation"


class AuditBound(Part):
    """One lower bound on ε of so many steps, and ε of the claim for them."""

    method: str
    epsilon: float = Field(ge=0)
    steps: int = Field(ge=0)
    claim: float | None = None
    confidence: float = Field(gt=0, lt=1)
    rests_on: str = ""
    refutes: bool = False


class Audit(Part):
    """An empirical lower bound on ε, found by attacking the run; the claim must lie above it."""

    epsilon_lower_bound: float = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)
    method: str
    detail: str = ""
    refuted: bool = False
    bounds: list[AuditBound] = []
    made: datetime | None = None


class RunRecord(Part):
    """The record of a run: `guarantee` is None without DP.

    `spent` is None before the first step, and while the run goes on, so also after it was killed: then the
    whole plan counts, and the ledger knows more.
    """

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    name: str
    status: Status
    created: datetime
    finished: datetime | None = None
    command: list[str] = []
    guarantee: dict[str, Any] | None = None
    local_guarantee: dict[str, Any] | None = Field(
        default=None,
        description="Of a perturbed data set: what it promises for each image, made before training.",
    )
    spent: Spent | None = None
    declared_public: list[str] = []
    metrics: dict[str, dict[str, Measured]] = {}
    baseline: Baseline = Baseline()
    versions: dict[str, str] = {}
    data: DataRecord
    model: ModelRecord
    seed_policy: str = "operating system"
    cost: Cost = Cost()
    calibration: Calibration | None = None
    audit: Audit | None = None
    training: dict[str, Any] = Field(
        default={}, description="The training section of the experiment, for tables."
    )
    warnings: list[str] = []
    repeat: int | None = Field(
        default=None, description="Which repeat of the same experiment this is, in a sweep."
    )

    def save(self, folder: Path) -> Path:
        """Write `run.json` in one piece: a crash leaves the old record or the new one."""
        path = folder / FILE
        part = path.with_suffix(".json.part")
        with part.open("w", encoding="utf-8") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return path

    def to_json(self) -> str:
        """The record as JSON; NaN becomes null."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check `run.json`.

        Raises:
            RunError: If the folder holds none, or one that is damaged, foreign or newer than this confide.
        """
        path = folder / FILE
        if not folder.is_dir():
            why = "It is a file." if folder.exists() else "There is nothing at this path."
            raise RunError(
                "is not a run folder",
                where=str(folder),
                why=why,
                remedy="Give the folder that training wrote.",
            )
        if not path.exists():
            raise RunError(
                "is not a run folder",
                where=str(folder),
                why="It holds no run.json.",
                remedy="Give the folder that training wrote.",
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunError(
                "is damaged",
                where=str(path),
                why=str(error),
                remedy="Restore it from a copy, or run `confide train` again.",
            ) from None
        _check_origin(values, path)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RunError("is damaged", where=f"{path}, {place}", why=first["msg"]) from None


def _check_origin(values: object, path: Path) -> None:
    """Refuse what another program, or a newer confide, wrote."""
    if not isinstance(values, dict) or "schema" not in values:
        raise RunError("was not written by confide", where=str(path), why="It states no schema.")
    if values["schema"] != SCHEMA:
        raise RunError(
            f"has schema {values['schema']!r}, this confide reads schema {SCHEMA}",
            where=str(path),
            remedy="Read it with the confide version that wrote it.",
        )


@dataclass(frozen=True)
class Run:
    """A run folder, read. `problems` says in whole sentences what could not be read."""

    folder: Path
    record: RunRecord
    history: History
    predictions: Predictions | None
    problems: tuple[str, ...] = ()

    @property
    def model_path(self) -> Path | None:
        """The trained weights, if they are there."""
        path = self.folder / "model.safetensors"
        return path if path.exists() else None

    @property
    def private(self) -> bool:
        """Whether a privacy guarantee is claimed."""
        return self.record.guarantee is not None


def load_run(folder: str | Path) -> Run:
    """Read a run folder.

    A damaged or missing side file costs what it would have shown, and becomes one of `problems`.

    Raises:
        RunError: If `run.json` is missing, damaged or foreign.
    """
    folder = Path(folder)
    record = RunRecord.load(folder)
    problems: list[str] = []

    def said(error: RunError) -> str:
        # Names within the folder only: a page must not tell where on which machine it lay.
        return str(error).replace(f"{folder}{os.sep}", "")

    try:
        history = history_file.load(folder)
    except RunError as error:
        history, problems = History(), [said(error)]
    if history.torn:
        problems.append("The last line of metrics.jsonl was cut off by a crash and is left out.")
    predictions = None
    try:
        predictions = Predictions.load(folder)
    except RunError as error:
        problems.append(said(error))
    return Run(folder, record, history, predictions, tuple(problems))
