# SPDX-License-Identifier: Apache-2.0
"""A grid of experiments: one YAML file in, cells with stable names out.

```yaml
name: rates
base: {data: {name: pneumoniamnist}, model: {name: resnet9}, ...}    # or the path of an experiment
axes:
  training.optimizer.lr: [1e-3, 3e-3]          # a list of values of one key, or
  privacy:                                     # labels, each with the keys that it sets
    private: {}
    plain: {privacy: none}
rules:
  - {where: {privacy: plain}, set: {training.epochs: 5}}
scales:
  smoke: {axes: {privacy: [private]}, set: {training.steps: 2, training.epochs: null}}
```

A cell's name is its labels joined by dashes: it does not change when an axis gets another value. Keys that
begin with `cell.` belong to the cell and not to its experiment, see `CellOptions`.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from confide.errors import ConfigError
from confide.experiments.config import Experiment
from confide.experiments.folder import FREE

Labels = dict[str, str]
Measure = Literal["train-scores", "gradient-sparsity", "saliency"]


class Part(BaseModel):
    """One part of a grid file: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(Part):
    """Keys that are set in the cells whose labels agree with `where`."""

    where: dict[str, str | list[str]] = {}
    set: dict[str, Any]

    def applies(self, labels: Labels) -> bool:
        """Whether each named label is one of those wanted."""
        return matches(labels, self.where)


class Perturbation(Part):
    """The local-DP copy of the data that a cell trains on."""

    mechanism: Literal["laplace"] = "laplace"
    scale: float = Field(gt=0, description="β of the Laplace noise, of pixels in [0, 1].")
    seed: int = Field(
        default=0, ge=0, description="Of the noise: the copy is made for research, not for keeps."
    )


class Account(Part):
    """What accounting without training needs beyond the experiment.

    Attributes:
        pixels: Channels, height and width of an image, for local DP.
        group_sizes: How many images a patient may have.
    """

    pixels: tuple[int, int, int] | None = None
    group_sizes: tuple[int, ...] = (2, 5)


class CellOptions(Part):
    """What a cell does besides training one model.

    Attributes:
        perturb: Train, validate and test on a local-DP copy.
        measures: Further figures, taken at each evaluation or at the end. They lie outside the mechanism and
            are declared so in the record: for published data only.
        task: "train"; or, without training, "account": what the configuration promises, "looks": how
            perturbed images look, "benchmark": time and memory of steps.
        account, benchmark: Options of those tasks.
    """

    perturb: Perturbation | None = None
    measures: tuple[Measure, ...] = ()
    task: Literal["train", "account", "looks", "benchmark"] = "train"
    account: Account = Account()
    benchmark: dict[str, Any] = {}


class Scale(Part):
    """How far a grid is run: a choice of its labels, and keys set for all cells."""

    text: str = ""
    axes: dict[str, list[str]] = {}
    set: dict[str, Any] = {}
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid.

    Attributes:
        name: Its labels, joined: stable.
        labels: axis -> label.
        experiment: Checked; its `out` and `name` are set when it runs.
        options: See `CellOptions`.
    """

    name: str
    labels: Labels
    experiment: Experiment
    options: CellOptions

    @property
    def digest(self) -> str:
        """SHA-256 over all that was asked for: a record of another digest is of another cell.

        Defaults are left out, so that a key which a later confide adds does not make all records worthless.
        """
        content = self.experiment.model_dump(mode="json", exclude={"out", "name"}, exclude_defaults=True)
        for key in FREE:
            *parents, last = key.split(".")
            place = content
            for parent in parents:
                place = place.get(parent, {})
            place.pop(last, None)
        text = json.dumps(
            [content, self.options.model_dump(mode="json", exclude_defaults=True)], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


class Grid(Part):
    """A grid file. `title`, `source`, `published`, `tables` and `claims` serve `confide reproduce` only."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    base: dict[str, Any]
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    rules: tuple[Rule, ...] = ()
    skip: tuple[dict[str, str | list[str]], ...] = ()
    scales: dict[str, Scale] = {}
    source: str = ""
    published: str | None = None
    remarks: tuple[str, ...] = ()
    tables: tuple[dict[str, Any], ...] = ()
    claims: tuple[dict[str, Any], ...] = ()
    checklist: tuple[dict[str, Any], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a grid file.

        Raises:
            ConfigError: If it is missing, is no YAML, or holds a wrong key.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                "cannot read the grid file", where=str(path), why=error.strerror or ""
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError("is not YAML", where=str(path), why=" ".join(str(error).split())) from None
        if not isinstance(values, dict):
            raise ConfigError("holds no keys", where=str(path), remedy="Give name, base and axes.")
        return cls.parse(values, where=path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: Path) -> Self:
        """Check a mapping; axes given as lists, and a base given by path, are spelt out."""
        filled = dict(values)
        if isinstance(filled.get("base"), str):
            base = where.parent / filled["base"]
            filled["base"] = Experiment.load(base).model_dump(mode="json", exclude={"name", "out"})
        axes = filled.get("axes") or {}
        if isinstance(axes, dict):
            filled["axes"] = {axis: _spelt_out(axis, choices, where) for axis, choices in axes.items()}
        try:
            return cls.model_validate(filled)
        except ValidationError as error:
            item = error.errors()[0]
            place = ".".join(map(str, item["loc"]))
            raise ConfigError(f"{place}: {item['msg']}", where=str(where)) from None

    def cells(self, scale: str | None = None, study: str | None = None) -> list[Cell]:
        """All cells of a scale, in the order of the axes; without a scale, the whole grid.

        Raises:
            ConfigError: If there is no such scale or label, or a cell is no experiment or has another's name.
        """
        chosen = self._scale(scale)
        labels_of = {axis: chosen.axes.get(axis, list(choices)) for axis, choices in self.axes.items()}
        for axis, wanted in chosen.axes.items():
            unknown = [label for label in wanted if label not in self.axes.get(axis, {})]
            if unknown or axis not in self.axes:
                raise ConfigError(f"scale {scale!r} names {axis}={unknown or '…'}, which the grid has not")
        cells: list[Cell] = []
        for combination in itertools.product(*labels_of.values()):
            labels = dict(zip(labels_of, combination, strict=True))
            if not any(matches(labels, where) for where in self.skip):
                cells.append(self._cell(labels, chosen, study or self.name))
        twice = {cell.name for cell in cells if sum(other.name == cell.name for other in cells) > 1}
        if twice:
            raise ConfigError(f"two cells are called {min(twice)!r}", remedy="Give the labels other names.")
        return cells

    def _scale(self, scale: str | None) -> Scale:
        if scale is None:
            return Scale()
        if scale not in self.scales:
            raise ConfigError(
                f"{self.name} has no scale {scale!r}", remedy=f"Choose one of: {', '.join(self.scales)}."
            )
        return self.scales[scale]

    def _cell(self, labels: Labels, scale: Scale, study: str) -> Cell:
        document: dict[str, Any] = {"experiment": copy.deepcopy(self.base), "cell": {}}
        settings = [self.axes[axis][label] for axis, label in labels.items()]
        settings += [rule.set for rule in self.rules if rule.applies(labels)]
        settings += [scale.set] + [rule.set for rule in scale.rules if rule.applies(labels)]
        name = "-".join(labels.values()) or self.name
        for setting in settings:
            for key, value in setting.items():
                _put(document, key if key.startswith("cell.") else f"experiment.{key}", value)
        experiment = document["experiment"]
        if experiment.get("privacy") == "none":
            pass
        elif isinstance(experiment.get("privacy"), dict):
            experiment["privacy"] = {k: v for k, v in experiment["privacy"].items() if v is not None}
        where = f"cell {name} of {self.name}"
        filled = {"study": study} | experiment | {"name": name}
        try:
            options = CellOptions.model_validate(document["cell"])
        except ValidationError as error:
            item = error.errors()[0]
            raise ConfigError(f"cell.{'.'.join(map(str, item['loc']))}: {item['msg']}", where=where) from None
        return Cell(name, labels, Experiment.parse(filled, where=where), options)


def matches(labels: Mapping[str, str], where: Mapping[str, str | Sequence[str]]) -> bool:
    """Whether each label named in `where` is the one, or one of those, wanted."""
    return all(
        labels.get(axis) in ([wanted] if isinstance(wanted, str) else wanted)
        for axis, wanted in where.items()
    )


def _spelt_out(axis: str, choices: Any, where: Path) -> dict[str, dict[str, Any]]:
    """label -> keys; a list is taken as values of the key that the axis is named after."""
    if isinstance(choices, list):
        return {_label(value): {axis: value} for value in choices}
    if isinstance(choices, dict):
        for label in choices:
            if not isinstance(label, str) or _label(label) != label:
                raise ConfigError(
                    f"axis {axis}: {label!r} cannot be a label",
                    where=str(where),
                    remedy="Use letters, digits, dots and underscores, in quotes where YAML reads a number.",
                )
        return {label: dict(keys or {}) for label, keys in choices.items()}
    raise ConfigError(f"axis {axis} is neither a list of values nor labels with keys", where=str(where))


def _label(value: object) -> str:
    """A value as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", str(value)).strip("_-") or "empty"


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c`; None takes the key away, so that a default holds."""
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            # Within `privacy: none` there is nothing to set.
            if inner == "none":
                return
            raise ConfigError(f"{key}: {parent!r} holds a value, not a section")
        place = inner
    if value is None:
        place.pop(last, None)
    else:
        place[last] = copy.deepcopy(value)
