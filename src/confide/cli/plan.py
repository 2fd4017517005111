# SPDX-License-Identifier: Apache-2.0
"""`confide plan`: the noise that a budget needs, or the budget that a noise spends."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confide.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from confide.privacy.plan import PrivacyPlan
    from confide.privacy.schemes import Sampling


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
    sampling: Annotated[
        str, typer.Option(help="poisson, fixed-size (replace-one adjacency) or full-batch.")
    ] = "poisson",
    per_patient: Annotated[int, typer.Option(help="Also state ε for a group of this many units.")] = 1,
    trials: Annotated[
        float | None,
        typer.Option(help="Also state ε of the best of a random number of runs with this mean."),
    ] = None,
    trials_shape: Annotated[
        str, typer.Option(help="Distribution of that number: geometric, logarithmic or poisson.")
    ] = "geometric",
    integers: Annotated[
        int, typer.Option(help="Hardened mode: numbers released a step (parameters and statistics).")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a training schedule costs in privacy, or the noise a budget needs."""
    from confide.privacy.plan import PrivacyPlan
    from confide.privacy.units import PrivacyUnit

    if (epsilon is None) == (noise_multiplier is None):
        raise ConfigError(
            "give one of --epsilon and --noise-multiplier",
            why="The first asks for the noise, the second for the budget.",
        )
    schedule: dict[str, Any] = {
        "delta": delta,
        "units": units,
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": steps,
        "unit": PrivacyUnit(_one_of("--unit", unit, list(PrivacyUnit))),
        "sampling": _sampling(sampling, batch_size, units),
        "integers": integers,
    }
    if epsilon is not None:
        plan = PrivacyPlan.for_budget(epsilon=epsilon, **schedule)
    else:
        assert noise_multiplier is not None
        plan = PrivacyPlan.for_schedule(noise_multiplier=noise_multiplier, **schedule)
    answer = _answer(plan)
    if per_patient > 1:
        answer[f"epsilon_for_groups_of_{per_patient}"] = plan.group_epsilon(per_patient)
    if trials is not None:
        answer["study"] = _study(plan, trials, trials_shape)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        _show(plan, answer, per_patient)


def _one_of(option: str, given: str, known: list[Any]) -> str:
    names = [str(value) for value in known]
    if given not in names:
        raise ConfigError(
            f"unknown value {given!r}", where=option, remedy=f"Choose one of: {', '.join(names)}."
        )
    return given


def _sampling(name: str, batch_size: int, units: int) -> Sampling | None:
    from confide.privacy.schemes import FixedSizeSampling, FullBatch

    match _one_of("--sampling", name, ["poisson", "fixed-size", "full-batch"]):
        case "fixed-size":
            return FixedSizeSampling(batch_size, units)
        case "full-batch":
            return FullBatch()
        case _:
            return None


def _answer(plan: PrivacyPlan) -> dict[str, Any]:
    guarantee = plan.guarantee()
    answer = {
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "steps": plan.steps,
        "units": plan.units,
        "unit": plan.unit.value,
        "delta": plan.delta,
        "epsilon": guarantee.epsilon,
        "epsilon_rdp": plan.epsilon(accountant="rdp"),
    }
    with contextlib.suppress(PlanError):  # there is none for fixed-size sampling
        answer["epsilon_gdp_not_a_bound"] = plan.epsilon(accountant="gdp")
    return answer | {"guarantee": guarantee.to_dict()}


def _study(plan: PrivacyPlan, mean: float, shape: str) -> dict[str, Any]:
    from confide.privacy.studies import Study, Trials

    kind = Trials(_one_of("--trials-shape", shape, list(Trials)))
    return {"mean_trials": mean, "trials": kind.value} | Study(plan, mean, kind).guarantee().to_dict()


def _show(plan: PrivacyPlan, answer: dict[str, Any], size: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from confide.privacy.guarantee import delta_text, rounded_up

    table = Table(show_header=False, box=None, pad_edge=False)
    # Every figure is rounded towards privacy.
    table.add_row("noise multiplier σ", rounded_up(plan.noise_multiplier, 4))
    table.add_row("sampling rate q", f"{plan.sampling_rate:.6g}")
    table.add_row("steps T", str(plan.steps))
    at = f"at δ = {delta_text(plan.delta)}"
    table.add_row(f"ε per {plan.unit.value}", f"{rounded_up(answer['epsilon'])} {at}")
    if size > 1:
        grouped = rounded_up(answer[f"epsilon_for_groups_of_{size}"])
        table.add_row(f"ε for {size} {plan.unit.value}s", f"{grouped} {at}")
    if "study" in answer:
        best = f"ε of the best of {answer['study']['mean_trials']:g} trials on average"
        table.add_row(best, f"{rounded_up(answer['study']['epsilon'])} {at}")
    console = Console()
    console.print(table)
    for text in [answer["guarantee"]["text"], *([answer["study"]["text"]] if "study" in answer else [])]:
        console.print()
        console.print(text, markup=False, highlight=False)
