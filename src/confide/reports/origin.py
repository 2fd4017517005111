# SPDX-License-Identifier: Apache-2.0
"""The end of a page: what the run cost, and how to do it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath

from confide.experiments.record import RunRecord
from confide.reports import tables
from confide.reports.numbers import duration


@dataclass(frozen=True)
class Tile:
    """One large figure with what it is."""

    title: str
    big: str
    small: str


def cost(record: RunRecord) -> list[Tile]:
    """What the run took, as tiles."""
    cost = record.cost
    tiles: list[Tile] = []
    if cost.seconds is not None:
        step = f"{1000 * cost.seconds_per_step:.0f} ms a step" if cost.seconds_per_step is not None else ""
        tiles.append(Tile("Time", duration(cost.seconds), step))
    if cost.peak_memory_mb is not None:
        tiles.append(Tile("Peak memory", f"{cost.peak_memory_mb / 1024:.1f} GB", cost.device))
    energy = "not readable on this machine" if cost.energy_wh is None else "measured by the machine"
    tiles.append(Tile("Energy", "unknown" if cost.energy_wh is None else f"{cost.energy_wh:.1f} Wh", energy))
    tiles.append(Tile("Model", f"{record.model.parameters:,}", f"parameters, {record.model.name}"))
    return tiles


def command(record: RunRecord) -> str:
    """As typed, but for the folder that the program happens to lie in."""
    if not record.command:
        return "(not recorded)"
    return shlex.join([PurePath(record.command[0]).name, *record.command[1:]])


def repeat(record: RunRecord) -> str:
    """Whether the same model can come out again."""
    if record.guarantee is None:
        return (
            "The same command with experiment.yaml of the run folder repeats the training; unless a seed was "
            "given, its figures will differ a little."
        )
    if record.seed_policy == "operating system":
        return (
            "The same command with experiment.yaml of the run folder repeats the training with fresh "
            "randomness: the guarantee is the same, the accuracy will differ a little. The same model cannot "
            "come out again; its secret noise is what protects people."
        )
    return "The run was seeded: the same command, file and versions give the same model again."


def provenance(record: RunRecord) -> tables.Table:
    """Versions, data and settings."""
    data = record.data
    rows = [(f"version of {name}", version) for name, version in sorted(record.versions.items())]
    rows += [
        ("data", data.title or data.name),
        ("data fingerprint", data.fingerprint),
        ("images", ", ".join(f"{count:,} {split}" for split, count in data.rows.items())),
        ("classes", ", ".join(data.classes)),
    ]
    rows += [(name, text) for name, text in (("licence", data.licence), ("citation", data.citation)) if text]
    rows += [(f"model option {key}", str(value)) for key, value in record.model.options.items()]
    rows += [(f"training: {key}", str(value)) for key, value in record.training.items()]
    return tables.plain("Where this came from", ("what", "value"), rows)
