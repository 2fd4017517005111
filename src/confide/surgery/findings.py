# SPDX-License-Identifier: Apache-2.0
"""What an inspection finds: the layer, the reason, the remedy, and how bad it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding stands in the way of differentially private training."""

    MUST = "must change"
    """Training would not be private, or no per-sample gradient exists."""
    SHOULD = "should change"
    """Private now, but fragile, slow, or harmful to what the model can learn."""
    NOTE = "note"
    """Harmless; worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One obstacle.

    Attributes:
        severity: Its class.
        layer: Qualified name of the layer, as in `model.named_modules()`; empty for the model itself.
        kind: Class name of the layer.
        reason: Why it matters.
        remedy: What to do about it.
    """

    severity: Severity
    layer: str
    kind: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = f"layer {self.layer!r}" if self.layer else "the model"
        return f"{self.severity.value}: {where} ({self.kind}) {self.reason}. {self.remedy}"

    def to_dict(self) -> dict[str, str]:
        """As plain strings, for JSON."""
        return {key: str(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Inspection:
    """All findings about a model, and what they rest on.

    Attributes:
        findings: Worst first, then in the model's own order.
        input_shape: Shape of the batch that the model was run on, or None if it was not run: then only the
            types of its layers were looked at.
    """

    findings: tuple[Finding, ...]
    input_shape: tuple[int, ...] | None

    @property
    def blocked(self) -> bool:
        """Whether something must change before training."""
        return any(finding.severity is Severity.MUST for finding in self.findings)


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Worst first; the given order within a class."""
    rank = list(Severity)
    return tuple(sorted(findings, key=lambda finding: rank.index(finding.severity)))
