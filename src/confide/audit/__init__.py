# SPDX-License-Identifier: Apache-2.0
"""Attacks on one's own training: what a claim of privacy withstands."""

from confide.audit.bounds import one_run_epsilon_lower_bound, plan_lower_bound
from confide.audit.rehearsal import Subject
from confide.audit.run import AuditResult, LowerBound, audit_run
from confide.audit.stepwise import StepCounts, step_audit

__all__ = [
    "AuditResult",
    "LowerBound",
    "StepCounts",
    "Subject",
    "audit_run",
    "one_run_epsilon_lower_bound",
    "plan_lower_bound",
    "step_audit",
]
