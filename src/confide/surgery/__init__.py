# SPDX-License-Identifier: Apache-2.0
"""Find and mend what keeps a model from being trained privately."""

from confide.surgery.findings import Finding, Inspection, Severity
from confide.surgery.inspect import examine, inspect
from confide.surgery.repair import repair

__all__ = ["Finding", "Inspection", "Severity", "examine", "inspect", "repair"]
