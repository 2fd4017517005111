# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""The private training loop, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from confide.data.augment import Augmentation
from confide.data.imageset import ImageSet
from confide.errors import InputError
from confide.gradients.engine import clipped_gradient
from confide.gradients.memory import give_back_memory
from confide.gradients.walking import trainable
from confide.mechanisms.clipping import Clipping, FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import PrivacyUnit
from confide.training.admission import check_model, check_optimizer, check_unit
from confide.training.contribution import Contribution
from confide.training.examples import Examples, as_examples
from confide.training.losses import Loss
from confide.training.mechanism import PrivateMechanism, with_releases
from confide.training.physical import PhysicalBatches, Work, unit_means
from confide.training.ranks import Ranks

__all__ = ["Charge", "PrivateLoop", "Step", "Work", "private_steps"]


class Charge(Protocol):
    """Something that durably charges a step before its noise is drawn; the ledger's reservation does."""

    def charge(self, step: int) -> None:
        """Return only once the charge of this step would survive a crash."""
        ...


@dataclass(frozen=True)
class Step:
    """One finished step. Nothing in it depends on private data outside the accounted mechanism.

    Attributes:
        number: Steps released so far, this one included.
        loss: Mean training loss as the mechanism released it (noisy), or None where the plan releases none.
        batch_size: The expected batch size q·n. The realised size is private.
        unclipped: Share of units left unclipped, as released; adaptive clipping only.
        plan: The plan with everything that a step releases.
    """

    number: int
    loss: float | None
    batch_size: float
    unclipped: float | None = None
    plan: PrivacyPlan = field(repr=False, kw_only=True)

    @cached_property
    def epsilon(self) -> float:
        """ε spent so far, by the plan's accountant, at the plan's δ."""
        return self.plan.epsilon(steps=self.number)


def private_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: ImageSet | Dataset[Any] | Sequence[Tensor] | Examples,
    plan: PrivacyPlan,
    *,
    loss: Loss,
    clip_norm: float | None = None,
    clipping: Clipping | None = None,
    units: Sequence[int] | NDArray[np.int64] | None = None,
    views: int = 1,
    augmentation: Augmentation | None = None,
    release_loss: bool = True,
    work: Work | None = None,
    key: RunKey | None = None,
    charge: Charge | None = None,
    ranks: Ranks | None = None,
    first_step: int = 0,
) -> Iterator[Step]:
    """Train with DP-SGD (Abadi et al. 2016, arXiv:1607.00133), a step for each item of the iterator.

    The optimizer sees privatised gradients only, so its momentum, the learning-rate schedule and averages of
    the weights are post-processing.

    Args:
        model: Its parameters with `requires_grad` are trained. No layer may mix samples.
        optimizer: Any torch optimizer over parameters of `model`, and over no others.
        dataset: The private rows; see `as_examples`.
        plan: Owns the privacy claim: sampling, noise, steps. With `integers` it asks for hardened mode.
        loss: `loss(model, batch) -> (B,)`, one value per row.
        clip_norm: Clip norm C of flat clipping; or give `clipping`.
        clipping: Any other bound on one unit's gradient.
        units: Unit number 0..U-1 of each row; default: each row is its own unit.
        views: Augmentation multiplicity K: random views of each row, averaged before clipping.
        augmentation: Makes a random view; needed for `views > 1`.
        release_loss: Spend a small part of the same claim on releasing each step's mean loss.
        work: Sizes and methods of the computation.
        key: The run's secret; default: a fresh one from the operating system.
        charge: Charges every step before its noise is drawn.
        ranks: This process among several; default: the process group's.
        first_step: Steps already charged, for a resumed run.

    Yields:
        A `Step` after each update of the weights.

    Raises:
        InputError: If the arguments contradict each other or the plan.
        ModelError: If nothing can be trained, or the optimizer holds parameters of something else.
    """
    if (clip_norm is None) == (clipping is None):
        raise InputError("give one of clip_norm and clipping")
    if views < 1 or (views > 1 and augmentation is None):
        raise InputError(
            f"{views} views of an image need an augmentation", why="Without one they are all the same."
        )
    if not 0 <= first_step <= plan.steps:
        raise InputError(f"first step {first_step} is outside 0..{plan.steps}, the plan's steps")
    check_model(model)
    check_optimizer(model, optimizer)
    check_unit(plan, dataset, grouped=units is not None)
    bounded = clipping if clipping is not None else FlatClipping(clip_norm or math.nan)
    whole = with_releases(plan, bounded, loss=release_loss)
    examples = as_examples(dataset, units)
    ranks = ranks or Ranks.current()
    key = key or ranks.shared_key()
    ranks.require_one_key(key)
    mechanism = PrivateMechanism(whole, bounded, key, ranks)
    # A plan for another model is refused now, not after the first charge.
    mechanism.nothing(dict(trainable(model)))
    ranks.align(model)
    brought = units is not None or not isinstance(dataset, ImageSet | Dataset | list | tuple)
    apart = plan.unit is PrivacyUnit.IMAGE and views == 1 and not brought
    loop = PrivateLoop(model, examples, loss, mechanism, views, augmentation, work or Work(), apart)
    return loop.run(optimizer, charge, first_step)


@dataclass
class PrivateLoop:
    """The loop's fixed parts. One instance trains one model.

    Attributes:
        apart: Whether every row is a unit by itself: by what the data set is, not by who is in a batch.
    """

    model: nn.Module
    examples: Examples
    loss: Loss
    mechanism: PrivateMechanism
    views: int
    augmentation: Augmentation | None
    work: Work
    apart: bool = False

    def run(
        self, optimizer: torch.optim.Optimizer, charge: Charge | None = None, first_step: int = 0
    ) -> Generator[Step]:
        """Take the plan's remaining steps."""
        # All of them: which ones are trained may change between steps, for example by staged unfreezing.
        plan, parameters = self.mechanism.plan, dict(self.model.named_parameters())
        ahead = self.work.draws_ahead(next(iter(parameters.values())).device)
        try:
            for number in range(first_step, plan.steps):
                if charge is not None:
                    charge.charge(number)
                if ahead:
                    self.mechanism.begin(number, trainable(self.model))
                released = self.mechanism.release(number, self.contribution(number))
                # Whatever gradient lies about on any parameter was not privatised.
                optimizer.zero_grad(set_to_none=True)
                for name, gradient in released.gradients.items():
                    parameter = parameters[name]
                    parameter.grad = gradient.to(parameter.device, parameter.dtype)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                yield Step(number + 1, released.loss, plan.expected_batch_size, released.unclipped, plan=plan)
        finally:
            self.mechanism.close()
            give_back_memory()

    def contribution(self, number: int) -> Contribution:
        """Clipped sums over the units sampled in a step, one physical batch after the other."""
        parameters: dict[str, Tensor] = {n: p.detach() for n, p in trainable(self.model).items()}
        device = next(iter(parameters.values())).device
        total = self.mechanism.nothing(parameters)
        seed = self.mechanism.views_seed(number)
        batches = PhysicalBatches(
            self.examples, self.views, self.augmentation, self.work, self.mechanism.hardened
        )
        chosen = self.mechanism.units(number, self.examples.n_units)
        for batch, labels in batches.of(chosen, seed, device):
            out = clipped_gradient(
                self.model,
                self.loss,
                batch,
                clipping=self.mechanism.clipping,
                units=None if self.apart and len(labels.unique()) == len(labels) else labels,
                method=self.work.method,
                physical_batch_size=self.work.physical_batch_size if self.work.fill else None,
                fill=self.work.fill,
            )
            total.add(out.sums, unit_means(out.losses, labels), out.factors)
        return total
