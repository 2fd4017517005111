# SPDX-License-Identifier: Apache-2.0
"""Cells on this machine: in this process, or in N processes that a crash of one cell cannot take down."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from confide.experiments.sweep import Watcher
from confide.experiments.sweep_cell import Task, describe_cell, run_cell
from confide.experiments.sweep_record import CellRecord

_STOP = None
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class InProcess:
    """One cell after the other, here: no process to start, but a crash of the interpreter ends the sweep."""

    def run(self, tasks: Iterable[Task], watcher: Watcher) -> Iterator[CellRecord]:
        """The records, in order."""
        for task in tasks:
            watcher.began(task.cell.name)
            yield run_cell(task)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    began: datetime | None = None


@dataclass(frozen=True)
class LocalProcesses:
    """N worker processes. One that dies costs its cell and is replaced.

    Attributes:
        jobs: N.
        threads: CPU threads of each; default: what OMP_NUM_THREADS says, else the cores shared evenly.
    """

    jobs: int = 1
    threads: int | None = None

    def run(self, tasks: Iterable[Task], watcher: Watcher) -> Iterator[CellRecord]:
        """The records, as they come."""
        waiting = deque(tasks)
        workers = [self._start() for _ in range(min(self.jobs, len(waiting)))]
        try:
            while waiting or any(worker.task for worker in workers):
                for worker in workers:
                    if worker.task is None and waiting:
                        self._give(worker, waiting.popleft(), watcher)
                busy = {worker.pipe: worker for worker in workers if worker.task is not None}
                for ready in wait(list(busy)):
                    worker = busy[ready]  # pyright: ignore[reportArgumentType]
                    record = _received(worker)
                    if record is None:
                        record = _died(worker)
                        workers[workers.index(worker)] = self._start()
                    worker.task = None
                    yield record
        finally:
            for worker in workers:
                _end(worker)

    def threads_each(self) -> int:
        """CPU threads of a worker. On a busy machine, more than asked for cost far more than they bring."""
        said = os.environ.get("OMP_NUM_THREADS", "")
        asked = int(said) if said.isdecimal() else 0
        return self.threads or asked or max(1, (os.cpu_count() or 1) // self.jobs)

    def _start(self) -> _Worker:
        # spawn: a forked process would share torch's threads and locks in an undefined state.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # No daemon: a benchmark measures memory in processes of its own. The kernel ends orphans instead.
        process = context.Process(target=_work, args=(theirs, self.threads_each(), os.getpid()))
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _give(self, worker: _Worker, task: Task, watcher: Watcher) -> None:
        worker.task, worker.began = task, datetime.now(UTC)
        watcher.began(task.cell.name)
        # If it died while idle, its pipe is at its end, which `run` sees next.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(task)


def _received(worker: _Worker) -> CellRecord | None:
    """A record; None if the process died."""
    try:
        return CellRecord.model_validate_json(worker.pipe.recv_bytes())
    except (EOFError, ConnectionResetError):
        return None


def _died(worker: _Worker) -> CellRecord:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    assert worker.task is not None and worker.began is not None
    hint = "; SIGKILL is how Linux ends a process when memory runs out" if code == -signal.SIGKILL else ""
    seconds = (datetime.now(UTC) - worker.began).total_seconds()
    return describe_cell(worker.task, worker.began, seconds, f"its process {how}{hint}")


def _end(worker: _Worker) -> None:
    """Stop a worker: an idle one at its leisure, a busy one at once; its cell resumes next time."""
    if worker.task is None and worker.process.is_alive():
        with suppress(OSError):
            worker.pipe.send(_STOP)
    else:
        worker.process.terminate()
    worker.pipe.close()
    worker.process.join(timeout=10)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _work(pipe: Connection, threads: int, parent: int) -> None:
    """The life of a worker: cells in, records out, until told to stop or left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's; it tells its workers
    _die_with_parent(parent)
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is _STOP:
            return
        pipe.send_bytes(run_cell(task).model_dump_json(by_alias=True).encode())


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when the coordinator dies, kill -9 included."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
