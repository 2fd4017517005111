# SPDX-License-Identifier: Apache-2.0
"""An experiment: everything that decides a run, in one YAML file.

Every key is checked; an unknown one is an error that names the nearest valid key. Nothing here is computed
from the data: what a run takes from its data outside the private mechanism is recorded as declared public.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from confide.errors import ConfigError
from confide.experiments.sections import (
    DataConfig,
    DiagnosticsConfig,
    EvaluationConfig,
    ModelConfig,
    PrivacyConfig,
    Section,
    TrainingConfig,
)


class Experiment(Section):
    """One run, fully described."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Also the run's folder below `out`."
    )
    data: DataConfig
    model: ModelConfig
    privacy: PrivacyConfig | Literal["none"]
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        default=(), description="Where released curves are also sent while the run goes on."
    )
    study: str | None = Field(
        default=None, description="The search that this run is a trial of; noted in the ledger."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        description="Research only: noise from a seed is not private, and the run says so.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: torch's.")
    out: Path = Field(default=Path("runs"), description="Folder of run folders.")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.out / self.name

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "experiment") -> Self:
        """Check a mapping.

        Raises:
            ConfigError: Names every wrong key, why it is wrong, and the nearest valid one.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error), where=where) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file and apply `key.path=value` overrides.

        Raises:
            ConfigError: If the file is missing, is not YAML, or holds a wrong key or value.
        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                "cannot read the experiment file",
                where=str(path),
                why=error.strerror or "",
                remedy="Check the path.",
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError("is not YAML", where=str(path), why=" ".join(str(error).split())) from None
        if not isinstance(values, dict):
            raise ConfigError("holds no keys", where=str(path), remedy="See examples/demo.yaml for the form.")
        for override in overrides:
            _apply(values, override)
        return cls.parse(values, where=str(path))

    def to_yaml(self) -> str:
        """The resolved experiment, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"{override!r} is not key=value", where="--set", remedy="For example --set training.epochs=2"
        )
    *parents, last = key.strip().split(".")
    place = values
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{parent!r} holds a value, not a section", where=f"--set {override}")
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{text!r} is not a value", where=f"--set {override}") from None


_BRANCHES = ("PrivacyConfig", "function-", "literal[")


def _explain(error: ValidationError) -> str:
    """All problems of an experiment, a sentence each."""
    problems: list[str] = []
    for item in error.errors():
        # The branches of a union appear in the place as names of pydantic's own.
        path = [part for part in map(str, item["loc"]) if not part.startswith(_BRANCHES)]
        name = ".".join(path)
        # `privacy` is a section or the word none: pydantic reports both, and one is enough.
        if item["type"] == "literal_error" and item["loc"][-1] == "literal['none']":
            continue
        if item["type"] == "model_type":
            problems.append(f"{name} = {item['input']!r}: give a section of keys, or none")
            continue
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _keys(path[:-1]), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(_keys(path[:-1]))}"
            problems.append(f"unknown key {name!r}: {hint}")
        elif item["type"] == "missing":
            problems.append(f"{name!r} is missing")
        elif item["type"] == "value_error":
            problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
        else:
            problems.append(f"{name} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "; ".join(problems)


def _keys(path: Sequence[str]) -> list[str]:
    """The valid keys of the section at a path."""
    section: type[BaseModel] = Experiment
    for part in path:
        kind = section.model_fields[part].annotation
        choices = [kind, *get_args(kind)]
        section = next(c for c in choices if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
