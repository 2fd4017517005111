# SPDX-License-Identifier: Apache-2.0
"""The model card: Markdown with the front matter that model hubs read, from the same record as the page.

Everything in it comes from `Content`, so the card cannot claim what the page does not.
"""

from __future__ import annotations

from typing import Any

import yaml

from confide.experiments.record import RunRecord
from confide.privacy.guarantee import rounded_up
from confide.reports.content import Content, metric_names
from confide.reports.numbers import metric_text, scientific
from confide.reports.words import promise

FILE = "model-card.md"
_TASKS = {"classification": "image-classification", "segmentation": "image-segmentation"}


def model_card(content: Content) -> str:
    """The card as text.

    Args:
        content: What the page says too.
    """
    record = content.run.record
    front = yaml.safe_dump(front_matter(content), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {record.name}",
        _subject(record),
        *_notices(content),
        "## What is promised",
        *_promised(content),
        *_points("## What it rests on", content.rests_on),
        *_points("## What it does not cover", content.not_covered),
        "## How good it is",
        _figures(content),
        *_subgroups(content),
        "## Use",
        _use(record),
        "## Data",
        _data(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(content: Content) -> dict[str, Any]:
    """The YAML head: a hub's keys, the metrics as its model index, and the guarantee under `privacy`."""
    record = content.run.record
    task = _TASKS[record.data.task]
    values: dict[str, Any] = {
        "library_name": "confide",
        "pipeline_tag": task,
        "tags": ["medical-imaging", *(["differential-privacy"] if _protects(content) else [])],
    }
    results = [
        {"type": name, "name": metric_names(record.data.task)[name][0], "value": round(metric.value, 4)}
        for name, metric in content.results.metrics.items()
        if metric.defined
    ]
    if results:
        dataset = {"name": record.data.title or record.data.name, "type": record.data.name, "split": "test"}
        entry = {"task": {"type": task}, "dataset": dataset, "metrics": results}
        values["model-index"] = [{"name": record.name, "results": [entry]}]
    if content.claim is None:
        return values | {"privacy": "none"}
    claim, g = content.claim, content.claim.guarantee
    return values | {
        "privacy": {
            "private": claim.private,
            "epsilon": float(rounded_up(claim.epsilon, 4)),
            "delta": claim.delta,
            "unit": g.unit.value,
            "neighbouring": g.adjacency.value,
            "accountant": g.accountant,
            "sampling": g.sampling,
        }
    }


def _subject(record: RunRecord) -> str:
    return (
        f"{record.model.name} with {record.model.parameters:,} parameters, trained on "
        f"{record.data.title or record.data.name}. Classes: {', '.join(record.data.classes)}."
    )


def _protects(content: Content) -> bool:
    return content.claim is not None and content.claim.private


def _notices(content: Content) -> list[str]:
    return [f"> {' '.join(notice.split())}" for notice in content.notices]


def _promised(content: Content) -> list[str]:
    claim = content.claim
    if claim is None:
        return ["Nothing: this model was trained without differential privacy and may repeat what it saw."]
    people = content.recognition.people if content.recognition is not None else None
    g = claim.guarantee
    exact = (
        f"(ε, δ) = {claim.symbols}, rounded up, for {g.adjacency.value} of one {g.unit.value}; accountant "
        f"{g.accountant.upper()}, {g.sampling} sampling at rate {g.sampling_rate:.6g}, noise multiplier "
        f"{g.noise_multiplier:.6g}, n = {g.units:,}, δ = {scientific(claim.delta)}."
    )
    if not claim.private:
        exact = f"Not private: seeded. With secret noise the same settings would give {exact}"
    return [*promise(content.run, claim, people), exact]


def _points(title: str, points: tuple[Any, ...]) -> list[str]:
    rows = [f"- {f'**{p.title}.** ' if p.title else ''}{p.text}" for p in points]
    return [title, "\n".join(rows)] if rows else []


def _figures(content: Content) -> str:
    names = metric_names(content.run.record.data.task)
    metrics = content.results.metrics
    rows = [
        f"| {title} | {metric_text(name, metrics[name])} |"
        for name, (title, _) in names.items()
        if name in metrics
    ]
    if not rows:
        return "There is no evaluation of this run."
    if content.majority is not None and "accuracy" in metrics:
        rows.append(f"| always {content.majority_class} | {100 * content.majority:.1f}% accuracy |")
    unit = content.run.record.data.unit.value
    return "\n".join([f"| on the test images | value (95% interval, by {unit}) |", "|---|---|", *rows])


def _subgroups(content: Content) -> list[str]:
    from confide.reports.tables import gap_sentence

    return [f"By {table.column}: {gap_sentence(table)}" for table in content.results.subgroups]


def _use(record: RunRecord) -> str:
    size = "" if record.model.size is None else f" of {record.model.size[0]}×{record.model.size[1]} pixels"
    return (
        f"It takes images{size} like those it was trained on, and is no approval for use on patients. Code: "
        "`confide predict RUN IMAGE...`, or `confide export RUN --format onnx`."
    )


def _data(record: RunRecord) -> str:
    data = record.data
    counts = ", ".join(f"{rows:,} {split}" for split, rows in data.rows.items())
    facts = [f"{data.title or data.name}: {counts} images", data.licence, data.citation]
    return ". ".join(fact.rstrip(".") for fact in facts if fact) + "."
