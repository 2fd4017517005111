# SPDX-License-Identifier: Apache-2.0
"""ε(ledger) ≥ ε(everything released), whatever breaks and whenever."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confide.errors import BudgetExhaustedError, LedgerError
from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch

HEADER = """
import os, resource, signal, sys
from pathlib import Path
from confide.errors import BudgetExhaustedError, LedgerError
from confide.privacy.ledger import Ledger
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch
plan = PrivacyPlan(20.0, 1.0, 100_000, 1e-5, 5000, sampling=FullBatch())
path = Path(sys.argv[1])
"""

# A byte on standard output stands for a released step: it has left the process.
TRAINING = (
    HEADER
    + """
ledger = Ledger.open(path)
ledger.register("chest", "fingerprint", plan.unit)
again = bool(ledger.runs())
reservation = ledger.resume("run", plan) if again else ledger.reserve("chest", plan, run="run", block=3)
for step in range(reservation.charged, plan.steps):
    reservation.charge(step)
    os.write(1, b".")
"""
)


def gaussian_delta(epsilon: float, sigma: float, steps: int) -> float:
    """δ(ε) of T Gaussians without sampling; Balle & Wang (2018), theorem 8."""
    mu = math.sqrt(steps) / sigma

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


def killed_runs(path: Path, kills: int) -> tuple[int, int]:
    """Released and charged steps after so many kills at random moments of one run that is resumed each
    time.
    """
    released = 0
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", TRAINING, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        # After so many released steps, at whatever the process does in that microsecond.
        wanted = random.randrange(1, 60)
        seen = 0
        while seen < wanted:
            got = os.read(child.stdout.fileno(), wanted - seen)
            assert got, "the process ended by itself"
            seen += len(got)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        seen += len(child.stdout.read())
        child.stdout.close()
        released += seen
        with Ledger.open(path) as ledger:
            spent = ledger.spent("chest")
        assert spent.steps_leased >= released
        # The oracle shares no code with the accountants: at the ledger's ε, what was released has at most its
        # δ.
        assert gaussian_delta(spent.epsilon, 20.0, released) <= spent.delta
    with Ledger.open(path) as ledger:
        return released, ledger.spent("chest").steps_leased


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_at_random_moments(path: Path, kills: int) -> None:
    released, charged = killed_runs(path, kills)
    print(f"{kills} kills: {released} steps released, {charged} charged")
    # Resuming a killed run costs at most a lease (1,000th of the plan here: 64 steps) each time.
    assert released <= charged <= released + 64 * kills


FULL = (
    HEADER
    + """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger.open(path)
ledger.register("chest", "fingerprint", plan.unit)
reservation = ledger.reserve("chest", plan, run="run", block=1)
size = Path(f"{path}-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30_000, size + 30_000))
try:
    for step in range(plan.steps):
        reservation.charge(step)
        os.write(1, b".")
except LedgerError as error:
    assert "full" in str(error), error
    try:
        reservation.charge(step)
    except LedgerError as error:
        assert "writes nothing more" in str(error), error
        sys.exit(7)
"""
)


def test_full_disk_stops_before_the_step(path: Path) -> None:
    """A limit on the size of files stands for the full disk: the log cannot grow."""
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], stdout=subprocess.PIPE, check=False)
    assert done.returncode == 7
    with Ledger.open(path) as ledger:
        charged = ledger.spent("chest").steps_leased
    assert 0 < len(done.stdout) <= charged <= len(done.stdout) + 1


def test_a_failed_fsync_is_fatal_and_not_retried(
    path: Path, plan: PrivacyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        reservation = ledger.reserve("chest", plan, run="run", block=1)
        reservation.charge(0)

        def fails(_: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as context:
            context.setattr(os, "fsync", fails)
            context.setattr(os, "fdatasync", fails)
            with pytest.raises(LedgerError, match="could not be written"):
                reservation.charge(1)
        with pytest.raises(LedgerError, match="writes nothing more"):
            reservation.charge(1)
    with Ledger.open(path) as ledger:
        assert ledger.spent("chest").steps_leased >= 1


RESERVING = (
    HEADER
    + """
plan = PrivacyPlan(20.0, 1.0, 7, 1e-5, 5000, sampling=FullBatch())
with Ledger.open(path) as ledger:
    for attempt in range(int(sys.argv[2])):
        try:
            ledger.reserve("chest", plan, run=f"{os.getpid()}-{attempt}")
            os.write(1, b".")
        except BudgetExhaustedError:
            pass
"""
)


@pytest.mark.parametrize("requests", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_eight_processes_share_one_budget(path: Path, requests: int) -> None:
    small = PrivacyPlan(20.0, 1.0, 7, 1e-5, 5000, sampling=FullBatch())
    # Room for 12 of the requests: ε of 84 of these steps, and of no 85.
    room = 12
    budget = small.epsilon(steps=7 * room) * 1.0001
    with Ledger.open(path) as ledger:
        ledger.register("chest", "fingerprint", small.unit)
        ledger.limit("chest", budget, 1e-5)
    command = [sys.executable, "-c", RESERVING, str(path), str(requests)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(8)]
    granted = sum(len(child.communicate()[0]) for child in children)
    assert all(child.returncode == 0 for child in children)
    with Ledger.open(path) as ledger:
        spent = ledger.spent("chest")
    print(f"8 × {requests} requests: {granted} granted, ε = {spent.reserved_epsilon:.4f} of {budget:.4f}")
    assert granted == room and spent.steps_reserved == 7 * room
    assert spent.reserved_epsilon <= budget


def test_two_handles_of_one_run_never_share_a_step(path: Path, plan: PrivacyPlan) -> None:
    with Ledger.open(path) as one, Ledger.open(path) as two:
        one.register("chest", "f", plan.unit)
        first, second = one.reserve("chest", plan, run="run", block=3), two.resume("run", plan, block=5)
        taken = 0
        with pytest.raises(BudgetExhaustedError):
            while True:
                (first, second)[taken % 2].charge(0)
                taken += 1
        second.pause()
        first.pause()
        assert taken <= one.spent("chest").steps_leased <= 400


def test_the_clock_plays_no_part(path: Path, plan: PrivacyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back by a year between two events: the order stays, and no event holds a time."""
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        ledger.reserve("chest", plan, run="one").charge(0)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 365 * 86400)
        ledger.reserve("chest", plan, run="two").charge(0)
        assert [event.seq for event in ledger.events()] == list(range(1, ledger.head.seq + 1))
        year = time.gmtime(real()).tm_year
        # A digest holds the six leading digits of the time by chance in one of 10,000 runs.
        text = "".join(event.body for event in ledger.events())
        assert str(int(real()))[:6] not in text and f"{year}-" not in text
    with Ledger.open(path) as ledger:
        assert [entry.label for entry in ledger.runs()] == ["one", "two"]


def _copy(path: Path, to: Path) -> None:
    to.mkdir()
    for part in path.parent.glob(f"{path.name}*"):
        shutil.copy2(part, to / part.name)


def _put_back(path: Path, backup: Path) -> None:
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()
    for part in backup.iterdir():
        shutil.copy2(part, path.parent / part.name)


def test_an_older_copy_is_refused(path: Path, plan: PrivacyPlan, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        reservation = ledger.reserve("chest", plan, run="run", block=1)
        reservation.charge(0)
        _copy(path, tmp_path / "backup")
        mark = reservation.mark()
        reservation.charge(1)
    _copy(path, tmp_path / "newest")
    _put_back(path, tmp_path / "backup")
    with pytest.raises(LedgerError, match="older copy") as refusal:
        Ledger.open(path)
    assert "--adopt" in str(refusal.value)
    # The newest copy put back, the run goes on; a checkpoint older than the ledger is no obstacle.
    _put_back(path, tmp_path / "newest")
    with Ledger.open(path) as ledger:
        assert ledger.resume("run", plan, mark=mark).charged == 2
    # A deleted ledger is an older copy too: budgets do not come back by deleting it.
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()
    with pytest.raises(LedgerError, match="older copy"):
        Ledger.open(path)


def test_an_older_ledger_under_a_newer_checkpoint_is_refused(
    path: Path, plan: PrivacyPlan, tmp_path: Path, secrets_apart: Path
) -> None:
    """Ledger and head both rolled back: the checkpoint's mark still tells."""
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        reservation = ledger.reserve("chest", plan, run="run", block=1)
        reservation.charge(0)
        _copy(path, tmp_path / "backup")
        shutil.copytree(secrets_apart, tmp_path / "heads")
        reservation.charge(1)
        mark = json.loads(json.dumps(reservation.mark()))
    _put_back(path, tmp_path / "backup")
    shutil.rmtree(secrets_apart)
    shutil.copytree(tmp_path / "heads", secrets_apart)
    with Ledger.open(path) as ledger, pytest.raises(LedgerError, match="newer or another ledger"):
        ledger.resume("run", plan, mark=mark)


def test_an_older_ledger_with_its_older_checkpoint_is_refused(
    path: Path, plan: PrivacyPlan, tmp_path: Path
) -> None:
    """Both restored from one backup: they agree with each other, and not with the head kept elsewhere."""
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        reservation = ledger.reserve("chest", plan, run="run", block=1)
        reservation.charge(0)
        _copy(path, tmp_path / "backup")
        mark = reservation.mark()
        reservation.charge(1)
    _put_back(path, tmp_path / "backup")
    with pytest.raises(LedgerError, match="older copy"), Ledger.open(path) as ledger:
        ledger.resume("run", plan, mark=mark)
    # Whoever knows that this copy is the newest can say so; it is recorded.
    with Ledger.open(path, adopt=True) as ledger:
        assert ledger.resume("run", plan, mark=mark).charged == 1
        assert ledger.events()[-1].kind == "adopt"


def test_a_fork_does_not_inherit_the_right_to_charge(
    path: Path, plan: PrivacyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        reservation = ledger.reserve("chest", plan, run="run", block=1)
        with monkeypatch.context() as context:
            own = os.getpid()
            context.setattr(os, "getpid", lambda: own + 1)
            with pytest.raises(LedgerError, match="another process"):
                reservation.charge(0)


def test_full_batch_oracle_agrees() -> None:
    """The oracle of the kill test is no looser than what it checks: it finds half the steps missing."""
    plan = PrivacyPlan(20.0, 1.0, 400, 1e-5, 5000, sampling=FullBatch())
    assert gaussian_delta(plan.epsilon(steps=200), 20.0, 400) > 1e-5
