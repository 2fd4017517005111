# SPDX-License-Identifier: Apache-2.0
"""The mutation suite, a part of it in every run of the tests; and its page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.mutants.catalogue import MUTANTS, Mutant
from tests.mutants.page import page

ROOT = Path(__file__).resolve().parents[2]


def suite(*options: str) -> str:
    command = [sys.executable, "-m", "tests.mutants", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_some_bugs_turn_their_test_red() -> None:
    assert "7 of 7 bugs" in suite("--quick")


@pytest.mark.slow
def test_every_bug_turns_its_test_red() -> None:
    assert f"{len(MUTANTS)} of {len(MUTANTS)} bugs" in suite()


def test_a_test_that_catches_nothing_is_noticed(tmp_path: Path) -> None:
    """The suite itself can fail: a harmless change turns nothing red."""
    script = (
        "import sys, dataclasses\n"
        "from tests.mutants import __main__ as suite\n"
        "m = next(m for m in suite.MUTANTS if m.bug == 'any delta will do')\n"
        "(module, before, _), = m.changes\n"
        "harmless = dataclasses.replace(m, changes=((module, before, before + '  # the same'),))\n"
        "absent = dataclasses.replace(m, changes=((module, 'no such text', ''),))\n"
        "sys.exit(suite.hunt([harmless, absent], 2))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stdout.count("MISSED") == 2
    assert "no such text" in ended.stdout


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.bug)
def test_the_text_of_every_bug_is_still_there(mutant: Mutant) -> None:
    """All are put in by `make mutants` only; what the source no longer says would be found out late."""
    for module, before, _ in mutant.changes:
        source = (ROOT / "src" / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert source.count(before) == 1, module


def test_at_least_twenty_of_the_listed_kinds_are_covered() -> None:
    assert len({mutant.number for mutant in MUTANTS}) >= 20
    assert all(0 < mutant.number <= 24 for mutant in MUTANTS)


def test_the_page_is_up_to_date() -> None:
    """Else: python -m tests.mutants --page docs/mutants.md"""
    assert (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8") == page(MUTANTS)
