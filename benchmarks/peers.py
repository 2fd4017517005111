# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a private step over the plain step of the same network: confide and its peers.

`python -m benchmarks.peers` installs nothing; a peer that is not there is left out, one that fails says why.
Time is taken of a plain and a private step by turns in one process, in several processes, and the median of
the ratios counts: CPU time of all threads of the process, and elapsed time, which is shorter where confide
draws its noise on a free core.
Memory is the high-water mark of two steps in a fresh process, less what imports, network and batch took, over
plain's; medians of several.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from benchmarks.workloads import WORKLOADS, Batch, Workload, conv_block, load_now, losses, machine
from confide.gradients.engine import clipped_gradient
from confide.gradients.memory import keep_freed_memory
from confide.mechanisms.keys import RunKey
from confide.mechanisms.noise import GaussianNoise, NoiseAhead

RECORD = Path(__file__).parent / "records" / "peers.json"
BARS = {
    "W5": (1.25, 1.3),
    "W1": (1.08, 1.3),
    "W2b": (1.18, 1.4),
    "W2a": (1.10, 1.2),
    "W3": (0.95, 1.0),
    "W4": (0.70, 1.3),
    "C4": (1.30, 1.3),
    "C8": (1.30, 1.3),
    "O2": (1.30, 1.3),
}
_PROCESSES, _PEAKS = 3, 5  # in which times, and memory, are measured
Step = Callable[[], object]


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-4)


def plain(model: nn.Module, batch: Batch) -> Step:
    """The ordinary step."""
    optimizer = _sgd(model)

    def step() -> None:
        losses(model, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Confide:
    """Clipped sums, noise, update; the noise of the run's key is drawn in a thread, as in training on a
    processor with a core to spare.

    Args:
        keyed: Noise of a run's key; else torch's, to compare with peers.
    """

    def __init__(self, model: nn.Module, batch: Batch, method: str, *, keyed: bool) -> None:
        self.model, self.batch, self.method, self.keyed = model, batch, method, keyed
        self.optimizer, self.noise = _sgd(model), GaussianNoise(1.0)
        self.parameters = dict(model.named_parameters())
        key = RunKey.from_os()
        self.ahead = NoiseAhead(lambda step: key.stream("noise", step=step))
        self.steps = 0

    def __call__(self) -> None:
        if self.keyed:
            self.ahead.begin(self.noise, self.steps, self.parameters)
        out = clipped_gradient(self.model, losses, self.batch, clip_norm=1.0, method=self.method)
        rows = len(self.batch[0])
        if self.keyed:
            noisy = self.ahead.add_(self.noise, out.sums, self.steps, rows)
        else:
            noisy = {name: (value + torch.randn_like(value)) / rows for name, value in out.sums.items()}
        for name, value in noisy.items():
            self.parameters[name].grad = value
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1


def confide(method: str, *, keyed: bool = True) -> Callable[[nn.Module, Batch], Step]:
    """confide's step by one method."""
    return lambda model, batch: Confide(model, batch, method, keyed=keyed)


def plain_vmap(model: nn.Module, batch: Batch) -> Step:
    """`vmap` of the whole network, as in torch's documentation, with `torch.randn` for noise."""
    optimizer = _sgd(model)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        scores = functional_call(model, values, (image[None],))
        return nn.functional.cross_entropy(scores, target[None])

    def step() -> None:
        values = {name: p.detach() for name, p in parameters.items()}
        each = vmap(grad(loss), (None, 0, 0))(values, *batch)
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()]).norm(dim=0)
        factors = (1.0 / norms).clamp_max(1.0)
        for name, g in each.items():
            total = torch.tensordot(factors, g, 1)
            parameters[name].grad = (total + torch.randn_like(total)) / len(factors)
        optimizer.step()
        optimizer.zero_grad()

    return step


def opacus(kind: str) -> Callable[[nn.Module, Batch], Step]:
    """Opacus' own modules and optimizers, without its loader."""

    def prepare(model: nn.Module, batch: Batch) -> Step:
        from opacus import GradSampleModule
        from opacus.grad_sample import GradSampleModuleExpandedWeights
        from opacus.optimizers import DPOptimizer

        wrapped = (
            GradSampleModuleExpandedWeights(model)
            if kind == "ew"
            else GradSampleModule(model, force_functorch=kind == "functorch")
        )
        bounds: Any = {"noise_multiplier": 1.0, "max_grad_norm": 1.0}  # Opacus' types say int
        optimizer = DPOptimizer(_sgd(wrapped), **bounds, expected_batch_size=len(batch[0]))

        def step() -> None:
            losses(wrapped, batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return prepare


def opacus_ghost(model: nn.Module, batch: Batch) -> Step:
    """Opacus' two-pass ghost clipping."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    bounds: Any = {"noise_multiplier": 1.0, "max_grad_norm": 1.0}  # Opacus' types say int
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(_sgd(wrapped), **bounds, expected_batch_size=len(batch[0]))
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), "mean")

    def step() -> None:
        criterion(wrapped(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class IncompleteError(Exception):
    """A peer left parameters out; what it computed is no private step of the network."""


def fast_dp(model: nn.Module, batch: Batch) -> Step:
    """fastDP's book-keeping, at its fastest setting, which clips as the others do."""
    from fastDP import PrivacyEngine  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    optimizer, rows = _sgd(model), len(batch[0])
    names = [name for name, _ in model.named_parameters()]
    engine: Any = PrivacyEngine(
        model,
        batch_size=rows,
        sample_size=100 * rows,
        epochs=1,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        clipping_mode="MixOpt",
        clipping_fn="Abadi",
        origin_params=names[:1],
    )
    engine.attach(optimizer)

    def step() -> None:
        losses(model, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if len(engine.named_params) < len(names):  # it drops what it does not support, with a warning
            raise IncompleteError(f"{len(names) - len(engine.named_params)} parameters left out")

    return step


SUBJECTS: dict[str, Callable[[nn.Module, Batch], Step]] = {
    "plain": plain,
    "confide": confide("auto"),
    "confide, torch's noise": confide("auto", keyed=False),
    "confide vmap": confide("vmap"),
    "confide loop": confide("loop"),
    "vmap": plain_vmap,
    "Opacus hooks": opacus("hooks"),
    "Opacus functorch": opacus("functorch"),
    "Opacus ew": opacus("ew"),
    "Opacus ghost": opacus_ghost,
    "fastDP": fast_dp,
}


def subjects(asked: list[str]) -> list[str]:
    """Those asked for that are installed."""
    packages = {"Opacus": "opacus", "fastDP": "fastDP"}
    missing = {peer for peer, package in packages.items() if find_spec(package) is None}
    return [name for name in asked if name.split()[0] not in missing]


def prepared(name: str, workload: Workload) -> Step:
    """A step of a subject, warmed up twice."""
    torch.manual_seed(0)
    step = SUBJECTS[name](workload.build(), workload.batch())
    step()
    step()
    return step


def seconds(step: Step) -> float:
    """CPU time of the process in one step."""
    return both_times(step)[0]


def both_times(step: Step) -> tuple[float, float]:
    """CPU time of the process in one step, and time elapsed."""
    elapsed, cpu = time.perf_counter(), time.process_time()
    step()
    return time.process_time() - cpu, time.perf_counter() - elapsed


Ratios = list[tuple[float, float]]


def ratios(workload: Workload, names: list[str], rounds: int) -> dict[str, Ratios | str]:
    """Ratios of each subject to plain in this process, (CPU, elapsed) a round; or why there are none."""
    keep_freed_memory()  # as the engine does, but before the plain step is prepared
    ordinary = prepared("plain", workload)
    found: dict[str, Ratios | str] = {}
    for name in names:
        try:
            step = prepared(name, workload)
            pairs = [(both_times(step), both_times(ordinary)) for _ in range(rounds)]
            found[name] = [(ours[0] / plain[0], ours[1] / plain[1]) for ours, plain in pairs]
        except Exception as error:  # a peer may fail in any way; the table says so
            found[name] = f"fails ({type(error).__name__})"
    return found


def times(key: str, names: list[str], rounds: int) -> dict[str, tuple[str, str]]:
    """Median ratios of each subject to plain, CPU and elapsed, as text; or why there are none.

    Over several processes: within one, ratios scatter by one per cent, from one to the next by five.
    """
    command = [sys.executable, "-m", "benchmarks.peers", "--ratios", key, str(rounds), *names]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(_PROCESSES)]
    each: list[dict[str, Ratios | str]] = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        failures = [one[name] for one in each if isinstance(one[name], str)]
        pooled = [pair for one in each for pair in one[name] if not isinstance(pair, str)]
        cpu, elapsed = (f"{median(pair[k] for pair in pooled):.2f}" if pooled else "–" for k in (0, 1))
        found[name] = (str(failures[0]), "–") if failures else (cpu, elapsed)
        print(f"  {name:22} {found[name]}", flush=True)
    return found


def resident(field: str) -> int:
    """A figure of this process in kB: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def peak(name: str, workload: Workload) -> int:
    """kB that two steps take above imports, network and batch; in a process of its own."""
    tiny = nn.Sequential(conv_block(3, 4), nn.Flatten(), nn.Linear(4 * 64, 10))
    first = SUBJECTS[name](tiny, (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)))
    first()  # imports what is imported at first use: 70 MB for any optimizer alone
    model, batch = workload.build(), workload.batch()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    step = SUBJECTS[name](model, batch)
    step()
    step()
    return resident("VmHWM") - before


def peaks(key: str, names: list[str]) -> dict[str, str]:
    """Ratio of memory to plain of each subject: medians of fresh processes, for where large blocks fall is
    chance."""
    kilobytes: dict[str, float] = {}
    for name in ["plain", *names]:
        command = [sys.executable, "-m", "benchmarks.peers", "--peak", key, name]
        runs = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(_PEAKS)]
        found = [int(run.stdout.split()[-1]) for run in runs if run.returncode == 0]
        if found:
            kilobytes[name] = median(found)
    return {name: f"{kilobytes[name] / kilobytes['plain']:.2f}" for name in names if name in kilobytes}


def main() -> None:
    """Print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--ratios", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=2, metavar=("WORKLOAD", "SUBJECT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.peak:
        print(peak(chosen.peak[1], WORKLOADS[chosen.peak[0]]))
        return
    if chosen.ratios:
        key, rounds, *names = chosen.ratios
        print(json.dumps(ratios(WORKLOADS[key], names, int(rounds))))
        return
    names = [name for name in subjects(chosen.subjects.split(",")) if name != "plain"]
    rows: list[list[str]] = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.exists() else []
    for key in chosen.workloads.split(","):
        workload = WORKLOADS[key]
        print(f"{key}: {workload.title}, batch {workload.rows}", flush=True)
        taken = times(key, names, chosen.rounds)
        memory = {} if chosen.no_memory else peaks(key, names)
        done = {(key, name) for name in names}
        rows = [row for row in rows if (row[0], row[2]) not in done]
        rows += [
            [key, f"{workload.title}, batch {workload.rows}", name, *taken[name], memory.get(name, "–")]
            for name in names
        ]
        write(rows, chosen.rounds, names)


def write(rows: list[list[str]], rounds: int, names: list[str]) -> None:
    """The record, after every workload; rows of other subjects are of an earlier run, and it says so."""
    order = list(WORKLOADS)
    rows.sort(key=lambda row: (order.index(row[0]), list(SUBJECTS).index(row[2])))
    own = {row[0]: row for row in rows if row[2] == "confide"}
    load = load_now()
    if any(row[2] not in names for row in rows):
        load += f" (the rows of {', '.join(names)}; all others are of earlier runs, beside other work)"
    record = {
        "title": "A private step over the plain step of the same network",
        "command": "python -m benchmarks.peers",
        "setting": {
            "torch": torch.__version__,
            "machine": machine(),
            "threads": 1,
            "load": load,
        },
        "columns": ["", "workload", "method", "CPU time ratio", "elapsed time ratio", "memory ratio"],
        "rows": rows,
        "bars": [verdict(key, row) for key, row in own.items()],
        "remarks": [
            (
                f"Private and plain step by turns in one process with one thread, {rounds} times in each of "
                f"{_PROCESSES} processes; medians of the ratios. CPU time: of all threads. Bars are held "
                "against elapsed time."
            ),
            (
                "confide's step includes the noise of the run's key (AES-256-CTR, float64), drawn in a "
                "thread on the second core as in training; the peers draw from torch's generator."
            ),
            (
                "Memory: high-water mark of two steps in a fresh process above imports, network and batch, "
                f"the median of {_PEAKS} processes."
            ),
        ],
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def verdict(key: str, row: list[str]) -> str:
    """Whether a workload's bars are reached."""
    parts: list[str] = []
    for what, bar, text in (("time", BARS[key][0], row[4]), ("memory", BARS[key][1], row[5])):
        try:
            reached = "reached" if float(text) <= bar else "missed"
        except ValueError:
            reached = "not measured"
        parts.append(f"{what} at most {bar:.2f}: {text}, {reached}")
    return f"{key}: {'; '.join(parts)}"


if __name__ == "__main__":
    main()
