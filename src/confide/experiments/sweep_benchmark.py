# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a private step against a plain one, for this framework and the peers that are installed.

Both are timed in one process, in turns, by process CPU time; memory is the peak of a process of its own, less
what it held before its first step. Absolute seconds depend on who else uses the machine; ratios much less.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from confide.errors import ConfigError, MissingExtraError
from confide.experiments.config import Experiment
from confide.experiments.resident import peak_mib, restart_peak

Step = Callable[[], None]


class BenchmarkOptions(BaseModel):
    """What is timed.

    Attributes:
        framework: plain, confide, vmap, or opacus.
        batch_size, size, channels, classes: Of the random images.
        masks: Whether the network labels pixels.
        rounds: Timings of each; the median counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    framework: str = "confide"
    batch_size: int = 32
    size: int = 256
    channels: int = 3
    classes: int = 2
    masks: bool = False
    rounds: int = 3


def benchmark(experiment: Experiment, values: dict[str, Any]) -> dict[str, Any]:
    """The figures of one network and framework.

    Raises:
        ConfigError: If there is no such framework.
        MissingExtraError: If the peer is not installed.
    """
    options = BenchmarkOptions.model_validate(values)
    if options.framework not in STEPS:
        raise ConfigError(
            f"there is no framework {options.framework!r}", remedy=f"Choose {', '.join(STEPS)}."
        )
    if options.framework == "opacus" and importlib.util.find_spec("opacus") is None:
        raise MissingExtraError("opacus", "peers", "this column of the benchmark")
    plain, private = _step(experiment, options, "plain"), _step(experiment, options, options.framework)
    times: dict[str, list[float]] = {"plain": [], "private": []}
    for step in (plain, private):  # kernels are chosen and caches filled in the first step
        step()
    for _ in range(options.rounds):
        times["plain"].append(_timed(plain))
        times["private"].append(_timed(private))
    seconds = {name: statistics.median(found) for name, found in times.items()}
    memory = {
        name: _peak_apart(experiment, options, framework)
        for name, framework in (("plain", "plain"), ("private", options.framework))
    }
    return {
        "framework": options.framework,
        "plain_seconds": seconds["plain"],
        "private_seconds": seconds["private"],
        "time_ratio": seconds["private"] / seconds["plain"],
        "plain_mib": memory["plain"],
        "private_mib": memory["private"],
        "memory_ratio": memory["private"] / memory["plain"],
        "rounds": options.rounds,
    }


def _timed(step: Step) -> float:
    begin = time.process_time()
    step()
    return time.process_time() - begin


def _step(experiment: Experiment, options: BenchmarkOptions, framework: str) -> Step:
    """A closure that does one whole step: gradients, clipping, noise, update."""
    import torch

    from confide.models.registry import build

    torch.manual_seed(0)
    model = build(
        experiment.model.name,
        in_channels=options.channels,
        classes=options.classes,
        **experiment.model.options,
    )
    images = torch.randn(options.batch_size, options.channels, options.size, options.size)
    shape = (options.batch_size, *((options.size,) * 2 if options.masks else ()))
    batch = (images, torch.randint(0, options.classes, shape))
    return STEPS[framework](model, batch)


def _plain(model: Any, batch: Any) -> Step:
    """An ordinary step, updated by hand as the private ones: torch's optimizers would load its compiler."""
    import torch

    from confide.training.losses import cross_entropy

    parameters = list(model.parameters())

    def step() -> None:
        gradients = torch.autograd.grad(cross_entropy(model, batch).mean(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.01 * gradient

    return step


def _confide(model: Any, batch: Any) -> Step:
    import confide
    from confide.training.losses import cross_entropy

    def step() -> None:
        _update(
            model, confide.clipped_gradient(model, cross_entropy, batch, clip_norm=1.0).sums, len(batch[0])
        )

    return step


def _vmap(model: Any, batch: Any) -> Step:
    import confide
    from confide.training.losses import cross_entropy

    def step() -> None:
        out = confide.clipped_gradient(model, cross_entropy, batch, clip_norm=1.0, method="vmap")
        _update(model, out.sums, len(batch[0]))

    return step


def _update(model: Any, sums: Any, rows: int) -> None:
    """Noise and update. Plain Gaussian noise here: the generator is not what is compared."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 0.01 / rows * (sums[name] + torch.randn_like(parameter))


def _opacus(model: Any, batch: Any) -> Step:
    import torch
    from opacus import GradSampleModule  # pyright: ignore[reportMissingImports]
    from opacus.optimizers import DPOptimizer  # pyright: ignore[reportMissingImports]

    from confide.training.losses import cross_entropy

    wrapped = GradSampleModule(model)
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), 0.01),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=len(batch[0]),
    )

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(wrapped, batch).mean().backward()
        optimizer.step()

    return step


STEPS: dict[str, Callable[[Any, Any], Step]] = {
    "plain": _plain,
    "confide": _confide,
    "vmap": _vmap,
    "opacus": _opacus,
}


def _peak_apart(experiment: Experiment, options: BenchmarkOptions, framework: str) -> float:
    """Peak memory of two steps in MiB, above what a fresh process held before them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure_peak, args=(theirs, experiment, options, framework))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise ConfigError(f"the process that measured memory ended with {process.exitcode}") from None
    finally:
        process.join()


def _measure_peak(pipe: Any, experiment: Experiment, options: BenchmarkOptions, framework: str) -> None:
    step = _step(experiment, options, framework)
    before = restart_peak()
    step()
    step()
    pipe.send(max(1.0, peak_mib() - before))
