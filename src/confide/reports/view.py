# SPDX-License-Identifier: Apache-2.0
"""From content to the values that `templates/report.html` lays out."""

from __future__ import annotations

from typing import Any

from confide.experiments.record import Run, RunRecord
from confide.privacy.guarantee import rounded_up
from confide.reports import origin, plots, quality, tables
from confide.reports.content import Comparison, Content, metric_names
from confide.reports.numbers import difference_text, metric_text, scientific
from confide.reports.origin import Tile
from confide.reports.samples import Sample
from confide.reports.turning import symmetry_view
from confide.reports.words import ATTACKER, MANY, ONE, adjacency_words, promise

_STATUS = {
    "finished": "finished",
    "running": "killed or still running",
    "interrupted": "interrupted",
    "exhausted": "stopped by the privacy budget",
    "failed": "failed",
}


def report_view(
    content: Content, samples: list[Sample], *, saliency: bool, why_no_saliency: str = ""
) -> dict[str, Any]:
    """Everything the template needs for one run."""
    record, claim = content.run.record, content.claim
    results = content.results
    shown = [plot.shown() for plot in plots.curves(content)]
    inside = [plot.shown() for plot in plots.inside(content)]
    classification = record.data.task == "classification"
    view: dict[str, Any] = {
        "title": f"{record.name}: privacy and accuracy",
        "heading": record.name,
        "subtitle": _subtitle(record),
        "claim": claim,
        "seeded": claim is not None and not claim.private,
        "notices": content.notices,
        "tiles": _tiles(content),
        "recognition": content.recognition,
        "attacker": ATTACKER[record.data.unit],
        "rests_on": content.rests_on,
        "not_covered": content.not_covered,
        "audit": _audit(record),
        "price": _price(content),
        "curves": shown,
        "comparison": _comparison(content),
        "metrics": tables.metric_table(
            results.metrics, metric_names(record.data.task), _metrics_caption(record)
        )
        if results.metrics
        else None,
        "why_no_metrics": _why_nothing(content.run),
        "heat": None if results.matrix is None else tables.heat(results.matrix, record.data.classes),
        "reliability": None if results.calibration is None else plots.reliability(content).shown(),
        "classes": tables.class_rows(results.classes) if classification and results.classes else None,
        "class_gap": quality.class_gap(content),
        "calibrated": quality.calibrated(content),
        "subgroup_parts": [_subgroup(table) for table in results.subgroups],
        "samples": samples,
        "saliency": saliency,
        "samples_note": f"{_samples_note(saliency)} {why_no_saliency}".strip(),
        "symmetry": symmetry_view(content),
        "diagnostics": inside,
        "diagnostics_note": _diagnostics_note(content.run),
        "cost": origin.cost(record),
        "command": origin.command(record),
        "repeat": origin.repeat(record),
        "provenance": origin.provenance(record),
    }
    if claim is not None:
        view |= {
            "promise": promise(
                content.run, claim, content.recognition.people if content.recognition else None
            ),
            "epsilon": rounded_up(claim.epsilon),
            "delta": scientific(claim.delta),
            "symbols": claim.symbols,
            "adjacency": adjacency_words(claim, record.data.unit),
            "parameters": _parameters(content),
        }
    view["contents"] = _contents(view)
    return view


def _contents(view: dict[str, Any]) -> list[tuple[str, str]]:
    entries = [("guarantee", "Promise")]
    if view["claim"]:
        entries += [("rests", "Rests on"), ("not", "Not covered")]
    entries += [("price", "Cost of privacy" if view["claim"] else "Accuracy"), ("quality", "Quality")]
    if view["metrics"]:
        entries.append(("groups", "Groups"))
    if view["samples"]:
        entries.append(("samples", "Samples"))
    if view["symmetry"]:
        entries.append(("turning", "Turning"))
    if view["diagnostics"]:
        entries.append(("gradients", "Training"))
    return [*entries, ("again", "Do it again")]


def _subtitle(record: RunRecord) -> str:
    data = record.data.title or record.data.name
    when = f"{record.finished or record.created:%d %B %Y}"
    return f"{record.model.name} on {data} · {_STATUS[record.status]}, {when}"


def _tiles(content: Content) -> list[Tile]:
    record, claim = content.run.record, content.claim
    tiles: list[Tile] = []
    if claim is not None:
        small = f"at δ = {scientific(claim.delta)}; {claim.guarantee.steps:,} steps planned"
        if record.spent is not None and claim.complete:
            small = f"at δ = {scientific(claim.delta)}, after {record.spent.steps:,} steps"
        tiles.append(Tile("Privacy loss", f"ε = {rounded_up(claim.epsilon)}", small))
        many = MANY[record.data.unit]
        tiles.append(
            Tile("Who is protected", ONE[record.data.unit], f"of {record.data.units:,} {many} in training")
        )
    name = "accuracy" if record.data.task == "classification" else "dice"
    if name in content.results.metrics:
        text, _, interval = metric_text(name, content.results.metrics[name]).partition(" (")
        base = (
            ""
            if content.majority is None or name != "accuracy"
            else f"; most frequent class: {100 * content.majority:.1f}%"
        )
        title = "Test accuracy" if name == "accuracy" else "Test Dice"
        tiles.append(Tile(title, text, f"({interval}{base}" if interval else base.removeprefix("; ")))
    if content.comparison is not None and name in content.comparison.differences:
        other = content.comparison.twin_metrics[name]
        text, _, _ = metric_text(name, other).partition(" (")
        difference = difference_text(name, content.comparison.differences[name])
        tiles.append(Tile("Without privacy", text, f"difference {difference}"))
    return tiles


def _parameters(content: Content) -> tables.Table:
    claim, record = content.claim, content.run.record
    assert claim is not None
    g = claim.guarantee
    rows = [
        ("ε, the privacy loss", rounded_up(claim.epsilon, 4) + " (rounded up)"),
        ("δ", scientific(claim.delta)),
        ("privacy unit", f"{g.unit.value}; n = {g.units:,}"),
        ("neighbouring data sets", g.adjacency.value),
        ("accountant", _accountant(g.accountant)),
        ("other accountants", _cross(g.cross_checks)),
        ("sampling", f"{g.sampling}, rate q = {g.sampling_rate:.6g}"),
        ("noise multiplier σ", f"{g.noise_multiplier:.6g}"),
        (
            "steps T",
            f"{record.spent.steps:,} of {g.steps:,} planned" if record.spent else f"{g.steps:,} planned",
        ),
        ("randomness", record.seed_policy),
    ]
    return tables.plain("The guarantee in full", ("quantity", "value"), rows)


def _accountant(name: str) -> str:
    titles = {"pld": "privacy loss distributions (an upper bound)", "rdp": "Rényi (an upper bound)"}
    return titles.get(name, name)


def _cross(checks: dict[str, float]) -> str:
    if not checks:
        return "none"
    said = {"gdp": " (an approximation, not a bound)"}
    return "; ".join(
        f"{name.upper()}: ε = {rounded_up(value)}{said.get(name, '')}" for name, value in checks.items()
    )


def _price(content: Content) -> str:
    name = "accuracy" if content.run.record.data.task == "classification" else "dice"
    comparison, claim = content.comparison, content.claim
    metric = content.results.metrics.get(name)
    if claim is None:
        return "This run was trained without privacy, so there is nothing to compare the price of."
    if metric is None or not metric.defined:
        return "Without a test evaluation the price of privacy is not known."
    own = metric_text(name, metric)
    if comparison is None or name not in comparison.differences:
        return (
            f"On the test images this model reaches {name} {own}. What privacy cost is not known: no run of "
            "the same training without privacy was given (train with privacy: none and add it to confide "
            "report)."
        )
    other = metric_text(name, comparison.twin_metrics[name])
    difference = comparison.differences[name]
    said = difference_text(name, difference)
    end = ""
    if difference.low == difference.low and difference.low <= 0 <= difference.high:
        end = " The interval includes zero: a cost was not shown on this test set."
    return (
        f"On the test images this model reaches {name} {own}, the same training without privacy {other}. "
        f"Without privacy it is {said}.{end}"
    )


def _comparison(content: Content) -> tables.Table | None:
    comparison: Comparison | None = content.comparison
    if comparison is None or not comparison.differences:
        return None
    return tables.comparison_table(
        content.results.metrics, comparison.twin_metrics, comparison.differences, comparison.paired
    )


def _metrics_caption(record: RunRecord) -> str:
    rows = record.data.rows.get("test", 0)
    unit = record.data.unit
    return f"{rows:,} test images; intervals by resampling {MANY[unit]} ({unit.value} level)"


def _why_nothing(run: Run) -> str:
    if run.record.status == "finished":
        return "its record holds no test metrics and no predictions."
    return f"it is {_STATUS[run.record.status]}, and the test set is opened once, after training."


def _subgroup(table: Any) -> dict[str, Any]:
    plot = plots.subgroup(table)
    return {
        "column": table.column,
        "sentence": tables.gap_sentence(table),
        "figure": None if plot is None else plot.shown(),
        "table": tables.subgroup_rows(table),
    }


def _samples_note(saliency: bool) -> str:
    note = (
        "Images of the test set, right and wrong answers of each class. They are real images and not "
        "protected by the guarantee: leave them out with --without-images before this page goes where they "
        "must not."
    )
    if saliency:
        note += (
            " The second picture shows where the model looked (Grad-CAM): warm parts raised the stated class."
        )
    return note


def _diagnostics_note(run: Run) -> str:
    if not run.history.diagnostics:
        return "Gradients themselves were not recorded: of private data they would have to be noised first."
    if any(not line.public for line in run.history.diagnostics):
        return (
            "These figures were computed from the private training data without noise. They are diagnostics "
            "outside the guarantee and must not be published with it."
        )
    return "These figures were computed on public data, so they cost no privacy."


def _audit(record: RunRecord) -> str:
    if record.audit is None:
        return ""
    a = record.audit
    said = (
        f"An attack on this training ({a.method}) shows that ε is at least {a.epsilon_lower_bound:.2f}, with "
        f"{100 * a.confidence:.0f}% confidence. {a.detail}".strip()
    )
    claimed = record.guarantee["epsilon"] if record.guarantee else None
    if claimed is None:
        return said
    if a.refuted or a.epsilon_lower_bound > claimed:
        refuted = "the claim is refuted, do not publish this model"
        return f"{said} That is more than the claim of {rounded_up(claimed)} allows: {refuted}."
    return f"{said} The claim of {rounded_up(claimed)} lies above that, as it must."
