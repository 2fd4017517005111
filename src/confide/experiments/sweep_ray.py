# SPDX-License-Identifier: Apache-2.0
"""Cells on a Ray cluster: the same records as on this machine.

Records come back to the coordinator and are written there. The work folder must be one that every node sees
if a cell shall resume on another node; data are found on each node as they are here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confide.errors import ConfigError, MissingExtraError
from confide.experiments.sweep import Watcher
from confide.experiments.sweep_cell import Task, describe_cell, run_cell
from confide.experiments.sweep_record import CellRecord


def _remote(task: Task, threads: int) -> str:
    """One cell on a node; JSON, so that nodes need not agree on pickled classes."""
    import torch

    torch.set_num_threads(threads)
    return run_cell(task).model_dump_json(by_alias=True)


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster.

    Attributes:
        address: Of its head, or "auto"; None starts one on this machine.
        cpus: CPU cores, and threads, of one cell.
        gpus: GPUs of one cell, for example 1 or 0.5.
        jobs: Cells at once at most; default: as many as the cluster has room for.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0
    jobs: int | None = None

    def run(self, tasks: Iterable[Task], watcher: Watcher) -> Iterator[CellRecord]:
        """The records, as they come.

        Raises:
            MissingExtraError: If ray is not installed.
            ConfigError: If there is no cluster at the address.
        """
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtraError("ray", "sweep", "--engine ray") from None
        try:
            ray.init(
                address=self.address,
                log_to_driver=False,
                include_dashboard=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                "there is no Ray cluster", where=f"--address {self.address}", why=str(error).splitlines()[0]
            ) from None
        try:
            yield from self._collect(ray, list(tasks), watcher)
        finally:
            ray.shutdown()

    def _collect(self, ray: Any, tasks: list[Task], watcher: Watcher) -> Iterator[CellRecord]:
        # A process a cell, never retried by Ray: the sweep itself runs a failed cell again next time.
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, max_calls=1)(_remote)
        waiting, running = list(reversed(tasks)), {}
        most = self.jobs or len(tasks)
        while waiting or running:
            while waiting and len(running) < most:
                task = waiting.pop()
                watcher.began(task.cell.name)
                running[remote.remote(task, self.cpus)] = (task, datetime.now(UTC))
            for done in ray.wait(list(running), num_returns=1)[0]:
                task, began = running.pop(done)
                try:
                    yield CellRecord.model_validate_json(ray.get(done))
                except ray.exceptions.RayError as error:
                    seconds = (datetime.now(UTC) - began).total_seconds()
                    first = str(error).splitlines()[0]
                    yield describe_cell(task, began, seconds, f"{type(error).__name__}: {first}")
