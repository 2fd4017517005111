# SPDX-License-Identifier: Apache-2.0
"""A small private problem, and a mechanism that writes down everything that passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.data.augment import Augmentation
from confide.mechanisms.clipping import Clipping, FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FixedSizeSampling
from confide.privacy.units import PrivacyUnit
from confide.training.contribution import Contribution, FloatContribution
from confide.training.examples import as_examples
from confide.training.integers import IntegerContribution, released_numbers
from confide.training.mechanism import PrivateMechanism, Released, with_releases
from confide.training.physical import Work
from confide.training.ranks import Ranks
from confide.training.step import PrivateLoop

DELTA = 1e-5
SIDE, CLASSES = 6, 3


def small_model(seed: int = 0) -> nn.Module:
    """A convolution and a linear layer on one-channel images of 6x6."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, CLASSES)
    )


def losses(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of each row."""
    images, targets = batch
    return F.cross_entropy(model(images), targets, reduction="none")


@dataclass(frozen=True)
class Rows:
    """Private rows: images (N, 1, 6, 6), targets (N,), unit of each row (N,)."""

    images: Tensor
    targets: Tensor
    units: np.ndarray

    @classmethod
    def drawn(cls, units: int, per_unit: int = 1) -> Rows:
        """Random rows, 1..per_unit of each unit, in unit order; the last unit is far from all others."""
        counts = torch.randint(1, per_unit + 1, (units,))
        index = np.repeat(np.arange(units), counts.numpy())
        images = torch.randn(len(index), 1, SIDE, SIDE)
        images[torch.from_numpy(index == units - 1)] *= 30
        return cls(images, torch.randint(0, CLASSES, (len(index),)), index)

    def without_last(self) -> Rows:
        """The neighbour: one unit fewer."""
        keep = self.units < self.units.max()
        return Rows(self.images[keep], self.targets[keep], self.units[keep])

    def with_last_replaced(self) -> Rows:
        """The neighbour under replace-one."""
        last = torch.from_numpy(self.units == self.units.max())
        images = torch.where(last[:, None, None, None], -3 * self.images, self.images)
        return Rows(images, torch.where(last, (self.targets + 1) % CLASSES, self.targets), self.units)


@dataclass
class Tape:
    """What a run did: everything that may depend on private data (inputs), and everything that may not."""

    inputs: list[dict[str, Tensor]] = field(default_factory=list)
    outputs: list[Released] = field(default_factory=list)
    chosen: list[np.ndarray] = field(default_factory=list)
    controls: list[tuple[Any, ...]] = field(default_factory=list)


class Recording(PrivateMechanism):
    """The mechanism, with its inputs written down. With a script its outputs are those of another run."""

    def __init__(self, *args: Any, script: list[Released] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tape = Tape()
        self._script = script

    def units(self, step: int, population: int) -> np.ndarray:
        chosen = super().units(step, population)
        self.tape.chosen.append(chosen)
        return chosen

    def release(self, step: int, contribution: Contribution) -> Released:
        self.tape.inputs.append(input_of(contribution))
        self.tape.controls.append(
            (
                "release",
                step,
                self.clipping,
                self.plan.expected_batch_size,
                self.plan.gradient_noise_multiplier,
                self.views_seed(step),
            )
        )
        if self._script is None:
            released = super().release(step, contribution)
            kept = {name: value.clone() for name, value in released.gradients.items()}
            self.tape.outputs.append(replace(released, gradients=kept))
            return released
        frozen = self._script[step]
        if frozen.unclipped is not None:
            self.clipping = self.clipping.updated(frozen.unclipped)
        return replace(frozen, gradients={name: value.clone() for name, value in frozen.gradients.items()})


def input_of(contribution: Contribution) -> dict[str, Tensor]:
    """Gradient and statistics as real numbers: "gradient" (D,), others (1,)."""
    if isinstance(contribution, IntegerContribution):
        return {
            name or "gradient": contribution.grids[name].to_real(value)
            for name, value in contribution.sums.items()
        }
    assert isinstance(contribution, FloatContribution)
    gradient = torch.cat([value.reshape(-1) for value in contribution.sums.values()]).double()
    return {"gradient": gradient} | {k: v.clone() for k, v in contribution.statistics.items()}


@dataclass(frozen=True)
class Case:
    """One kind of run."""

    per_unit: int = 1
    views: int = 1
    physical: int = 1000
    clipping: Clipping = field(default_factory=lambda: FlatClipping(0.5))
    hardened: bool = False
    fixed_size: bool = False
    units: int = 12
    steps: int = 24

    @property
    def augmentation(self) -> Augmentation | None:
        return Augmentation.of(["flip", "shift"]) if self.views > 1 else None

    def plan(self, model: nn.Module) -> PrivacyPlan:
        """q = 1/2, σ = 2, and whatever the run releases."""
        kind = PrivacyUnit.PATIENT if self.per_unit > 1 else PrivacyUnit.IMAGE
        scheme = FixedSizeSampling(self.units // 2, self.units) if self.fixed_size else None
        drawn = PrivacyPlan(2.0, 0.5, self.steps, DELTA, self.units, kind, scheme)  # type: ignore[arg-type]
        whole = with_releases(drawn, self.clipping, loss=True)
        numbers = released_numbers(model, len(whole.releases)) if self.hardened else 0
        return replace(whole, integers=numbers)

    def run(
        self,
        rows: Rows,
        key: RunKey,
        *,
        script: list[Released] | None = None,
        ranks: Ranks | None = None,
        steps: int | None = None,
    ) -> tuple[Tape, nn.Module]:
        """Train; returns what was recorded, and the model."""
        model = small_model()
        plan = self.plan(model)
        if steps is not None:
            plan = replace(plan, steps=steps)
        mechanism = Recording(plan, self.clipping, key, ranks, script=script)
        examples = as_examples((rows.images, rows.targets), rows.units)
        work = Work(self.physical, "auto")
        loop = PrivateLoop(model, examples, losses, mechanism, self.views, self.augmentation, work)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tape = mechanism.tape

        class Charge:
            def charge(self, step: int) -> None:
                tape.controls.append(("charge", step))

        for step in loop.run(optimizer, Charge()):
            tape.controls.append(("step", step.number, step.loss, step.batch_size, step.unclipped))
            tape.controls.append(("weights", *(p.detach().sum().item() for p in model.parameters())))
        return tape, model
