# SPDX-License-Identifier: Apache-2.0
"""`confide plan`: the noise that a budget needs, or the budget that a noise spends."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from confide.errors import ConfigError


def command(
    units: Annotated[
        int, typer.Option(help="Number of privacy units n in the training data; declared public.")
    ],
    batch_size: Annotated[int, typer.Option(help="Expected batch size q·n, in units.")],
    delta: Annotated[float, typer.Option(help="δ; below 1/n, better below 1/(10 n).")],
    epochs: Annotated[float | None, typer.Option(help="Passes over the data; or give --steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps T.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="ε to reach; gives the noise multiplier σ.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="σ to use; gives ε.")] = None,
    unit: Annotated[
        str, typer.Option(help="Whom the guarantee protects: image, patient, lesion or tile.")
    ] = "image",
    per_patient: Annotated[int, typer.Option(help="Also state ε for a group of this many units.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a training schedule costs in privacy, or the noise a budget needs."""
    from confide.privacy.plan import PrivacyPlan
    from confide.privacy.units import PrivacyUnit

    kinds = [kind.value for kind in PrivacyUnit]
    if unit not in kinds:
        raise ConfigError(
            f"unknown unit {unit!r}", where="--unit", remedy=f"Choose one of: {', '.join(kinds)}."
        )
    if (epsilon is None) == (noise_multiplier is None):
        raise ConfigError(
            "give one of --epsilon and --noise-multiplier",
            why="The first asks for the noise, the second for the budget.",
        )
    kind = PrivacyUnit(unit)
    if epsilon is not None:
        plan = PrivacyPlan.for_budget(
            epsilon=epsilon,
            delta=delta,
            units=units,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            unit=kind,
        )
    else:
        assert noise_multiplier is not None
        plan = PrivacyPlan.for_schedule(
            noise_multiplier=noise_multiplier,
            delta=delta,
            units=units,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            unit=kind,
        )
    guarantee = plan.guarantee()
    answer: dict[str, object] = {
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "steps": plan.steps,
        "units": plan.units,
        "unit": plan.unit.value,
        "delta": plan.delta,
        "epsilon": guarantee.epsilon,
        "epsilon_rdp": plan.epsilon(accountant="rdp"),
        "epsilon_gdp_not_a_bound": plan.epsilon(accountant="gdp"),
        "guarantee": guarantee.to_dict(),
    }
    if per_patient > 1:
        answer[f"epsilon_for_groups_of_{per_patient}"] = plan.group_epsilon(per_patient)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    _show(answer, str(guarantee))


def _show(answer: dict[str, object], words: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in answer.items():
        if not isinstance(value, dict):
            table.add_row(key.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value))
    console = Console()
    console.print(table)
    console.print()
    console.print(words, markup=False, highlight=False)
