# SPDX-License-Identifier: Apache-2.0
"""The mutation suite: `python -m tests.mutants [--quick] [--only TEXT] [--page FILE]`.

Every bug of the catalogue is put into confide, and the test named with it must turn red. Without bugs all of
these tests must be green. A process with the libraries loaded is forked for each bug, so that a bug costs its
test and little more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.mutants.catalogue import MUTANTS, Change, Mutant
from tests.mutants.injection import inject
from tests.mutants.page import page

ROOT = Path(__file__).resolve().parents[2]
# Several times what the slowest test takes on a busy machine.
LONGEST = 300.0


class Outcomes:
    """A pytest plugin: which tests failed, which passed, and what went wrong outside of tests."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.passed = 0
        self.broken = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.passed += 1
        elif report.failed and report.when == "call":
            self.failed.append(report.nodeid)
        elif report.failed:
            self.broken = self.broken or f"{report.when} of {report.nodeid} failed"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.broken = self.broken or f"{report.nodeid} cannot be collected: {str(report.longrepr)[-400:]}"


@dataclass
class Child:
    """A forked process that runs tests."""

    mutant: Mutant | None
    process: int
    pipe: int
    began: float

    def result(self) -> dict[str, Any]:
        """What it reported. Waits for its end."""
        parts: list[bytes] = []
        deadline = self.began + LONGEST
        while True:
            ready, _, _ = select.select([self.pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(self.process, 9)
                parts = [json.dumps({"broken": f"took more than {LONGEST:g} s"}).encode()]
                break
            part = os.read(self.pipe, 65536)
            if not part:
                break
            parts.append(part)
        os.close(self.pipe)
        os.waitpid(self.process, 0)
        text = b"".join(parts)
        return json.loads(text) if text else {"broken": "the process died"}


def start(mutant: Mutant | None, tests: Sequence[str], changes: Sequence[Change]) -> Child:
    """Run tests in a fork, with changes."""
    reading, writing = os.pipe()
    began = time.monotonic()
    process = os.fork()
    if process:
        os.close(writing)
        return Child(mutant, process, reading, began)
    found: dict[str, Any] = {"broken": "the process ended early"}
    try:
        os.close(reading)
        found = run(tests, changes)
    except BaseException as error:
        found = {"broken": f"{type(error).__name__}: {error}"}
    finally:
        os.write(writing, json.dumps(found).encode())
        os._exit(0)


def run(tests: Sequence[str], changes: Sequence[Change]) -> dict[str, Any]:
    """Run tests here; what they say goes nowhere."""
    outcomes = Outcomes()
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        injector = inject(changes)
        options = ["-q", "-p", "no:cacheprovider", "--no-header"]
        code = pytest.main([*options, *tests], plugins=[outcomes])
        file.flush()
        file.seek(0)
        said = file.read()[-2000:]
    broken = injector.failure or outcomes.broken
    if not broken and injector.applied != injector.wanted:
        broken = f"the test does not import {', '.join(injector.wanted - injector.applied)}"
    if not broken and code not in (0, 1):
        broken = f"pytest ended with {int(code)}: {said}"
    return {"failed": outcomes.failed, "passed": outcomes.passed, "broken": broken}


def red(mutant: Mutant, found: dict[str, Any]) -> bool:
    """Whether a test that is named with the bug failed, in its own body."""
    named = mutant.test.split("|")
    return not found.get("broken") and any(
        node == name or node.startswith(f"{name}[") for node in found["failed"] for name in named
    )


def warm_up() -> None:
    """Load the libraries once, but nothing of confide."""
    import dp_accounting.pld
    import dp_accounting.rdp
    import scipy.stats
    import torch

    _ = dp_accounting.pld, dp_accounting.rdp, scipy.stats
    torch.set_num_threads(1)
    # The first optimizer imports half of torch.
    torch.optim.SGD([torch.zeros(1)], lr=0.1)
    # Plugins of installed packages are loaded anew in every fork, and none is needed.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    assert not any(name.partition(".")[0] == "confide" for name in sys.modules)


def main() -> int:
    """Run the suite; the exit status is 0 if every bug was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a dozen of the bugs")
    parser.add_argument("--only", default="", help="bugs whose text holds this")
    parser.add_argument("--page", type=Path, help="write the table here if every bug was found")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    os.chdir(ROOT)
    began = time.monotonic()
    chosen = [m for m in MUTANTS if (m.quick or not arguments.quick) and arguments.only in m.bug]
    warm_up()
    tests = sorted({name for mutant in chosen for name in mutant.test.split("|")})
    sound = start(None, tests, ()).result()
    if sound.get("broken") or sound["failed"]:
        print(f"without bugs the tests are not green: {sound}", file=sys.stderr)
        return 2
    print(f"{sound['passed']} tests are green without bugs ({time.monotonic() - began:.0f} s)", flush=True)
    missed = hunt(chosen, arguments.jobs)
    numbers = len({mutant.number for mutant in chosen})
    print(
        f"{len(chosen) - missed} of {len(chosen)} bugs, of {numbers} of the 24 kinds, turn their test red"
        f" ({time.monotonic() - began:.0f} s)"
    )
    if arguments.page and not missed:
        arguments.page.write_text(page(MUTANTS), encoding="utf-8")
    return 1 if missed else 0


def hunt(chosen: Sequence[Mutant], jobs: int) -> int:
    """Put each bug in and print a line; returns how many were not found."""
    waiting, running, missed = list(chosen), list[Child](), 0
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop(0)
            running.append(start(mutant, mutant.test.split("|"), mutant.changes))
        child = running.pop(0)
        assert child.mutant is not None
        found = child.result()
        caught = red(child.mutant, found)
        missed += not caught
        seconds = time.monotonic() - child.began
        print(
            f"{'red ' if caught else 'MISSED'} {child.mutant.number:2} {child.mutant.bug} ({seconds:.0f} s)"
        )
        print(f"        {child.mutant.test}", flush=True)
        if not caught:
            print(f"        {found}", flush=True)
    return missed


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
