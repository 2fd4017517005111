# SPDX-License-Identifier: Apache-2.0
"""The table of docs/mutants.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.mutants.catalogue import Mutant

_HEAD = """# Bugs that the tests catch

Privacy bugs leave no trace: the model trains, the figures look fine, and the guarantee is false. So each bug
below, which happened in some library or paper, is put into confide's own source, and the test beside it must
turn red. `make mutants` does that for all of them and fails if one goes unnoticed; the test suite does it for
those in **bold**. The numbers are those of the [list in the page on privacy](privacy.md#bugs-that-happened).

This page is written by `python -m tests.mutants --page docs/mutants.md`, and only after every bug was found.

| # | bug | seen in | test that turns red |
|---|---|---|---|
"""


def page(mutants: Sequence[Mutant]) -> str:
    """Markdown: a row for each bug."""
    rows = []
    for mutant in mutants:
        bug = f"**{mutant.bug}**" if mutant.quick else mutant.bug
        tests = "<br>".join(
            f"`{name.removeprefix('tests/').replace('.py::', '::')}`" for name in mutant.test.split("|")
        )
        rows.append(f"| {mutant.number} | {bug} | {mutant.seen} | {tests} |\n")
    kinds = len({mutant.number for mutant in mutants})
    return f"{_HEAD}{''.join(rows)}\n{len(mutants)} bugs of {kinds} of the 24 kinds.\n"
