# SPDX-License-Identifier: Apache-2.0
"""The private training loop, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from confide.data.augment import Augmentation
from confide.data.imageset import ImageSet
from confide.errors import InputError, ModelError
from confide.gradients.engine import clipped_gradient
from confide.mechanisms.clipping import Clipping, FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.training.examples import Examples, as_examples
from confide.training.losses import Loss
from confide.training.mechanism import Contribution, PrivateMechanism, with_releases
from confide.training.ranks import Ranks
from confide.training.views import keep_per_unit, uniforms


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


@dataclass(frozen=True)
class Work:
    """How a step computes its clipped sums; changes time and memory, never the result."""

    physical_batch_size: int = 256
    method: str = "auto"
    max_rows_per_unit: int | None = None


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

    The optimizer sees privatised gradients only, so its momentum, the learning-rate schedule and averages of the weights
    are post-processing.

    Args:
        model: Its parameters with `requires_grad` are trained. No layer may mix samples.
        optimizer: Any torch optimizer over parameters of `model`, and over no others.
        dataset: The private rows; see `as_examples`.
        plan: Owns the privacy claim: sampling, noise, steps.
        loss: `loss(model, batch) -> (B,)`, one value per row.
        clip_norm: Clip norm C of flat clipping; or give `clipping`.
        units: Unit number 0..U-1 of each row; default: each row is its own unit.
        views: Augmentation multiplicity K: random views of each row, averaged before clipping.
        augmentation: Makes a random view; needed for `views > 1`.
        release_loss: Spend a small part of the same claim on releasing each step's mean loss.
        charge: Charges every step before its noise is drawn.
        first_step: Steps already charged, for a resumed run.

    Yields:
        A `Step` after each update of the weights.

    Raises:
        InputError: If the arguments contradict each other or the plan.
        ModelError: If nothing can be trained, or the optimizer holds parameters of something else.
    """
    if (clip_norm is None) == (clipping is None):
        raise InputError("give one of clip_norm and clipping")
    if views > 1 and augmentation is None:
        raise InputError(
            f"{views} views of an image need an augmentation", why="Without one they are all the same."
        )
    bounded = clipping if clipping is not None else FlatClipping(clip_norm or math.nan)
    ranks = ranks or Ranks.current()
    mechanism = PrivateMechanism(
        with_releases(plan, bounded, loss=release_loss), bounded, key or ranks.shared_key(), ranks
    )
    loop = PrivateLoop(
        model, as_examples(dataset, units), loss, mechanism, views, augmentation, work or Work()
    )
    _check_optimizer(model, optimizer)
    return loop.run(optimizer, charge, first_step)


@dataclass
class PrivateLoop:
    """The loop's fixed parts. One instance trains one model."""

    model: nn.Module
    examples: Examples
    loss: Loss
    mechanism: PrivateMechanism
    views: int
    augmentation: Augmentation | None
    work: Work

    def run(self, optimizer: torch.optim.Optimizer, charge: Charge | None, first_step: int) -> Iterator[Step]:
        """Take the plan's remaining steps."""
        plan = self.mechanism.plan
        for number in range(first_step, plan.steps):
            if charge is not None:
                charge.charge(number)
            released = self.mechanism.release(number, self._contribution(number))
            parameters = dict(self.model.named_parameters())
            for name, gradient in released.gradients.items():
                parameters[name].grad = gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield Step(number + 1, released.loss, plan.expected_batch_size, released.unclipped, plan=plan)

    def _contribution(self, number: int) -> Contribution:
        """Clipped sums over the units sampled in a step, one physical batch after the other."""
        trainable = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        total = Contribution.nothing(trainable)
        device = next(iter(trainable.values())).device
        seed = self.mechanism.views_seed(number)
        chosen = self.mechanism.units(number, self.examples.n_units)
        for rows, owner in self._physical_batches(chosen, seed):
            batch = tree_map(
                lambda t: t.to(device, non_blocking=True),
                views_of(self.examples, rows, self.views, self.augmentation, seed),
            )
            labels = torch.from_numpy(np.repeat(owner, self.views)).to(device)
            out = clipped_gradient(
                self.model,
                self.loss,
                batch,
                clipping=self.mechanism.clipping,
                units=labels,
                method=self.work.method,
            )
            total.add(out.sums, _unit_means(out.losses, labels), out.factors)
        return total

    def _physical_batches(
        self, chosen: NDArray[np.int64], seed: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows and the unit of each, cut between units into parts of about the physical batch size."""
        rows, owner = self.examples.rows_of(chosen)
        if self.work.max_rows_per_unit is not None:
            keep = keep_per_unit(seed ^ 0x726F7773, rows, chosen[owner], self.work.max_rows_per_unit)
            rows, owner = rows[keep], owner[keep]
        if len(rows) == 0:
            return
        most = max(1, self.work.physical_batch_size // self.views)
        first = np.searchsorted(owner, np.arange(len(chosen)))
        start = 0
        while start < len(rows):
            # The last unit boundary within reach; a unit larger than a physical batch stays whole.
            fits = first[(first > start) & (first <= start + most)]
            if len(rows) - start <= most:
                end = len(rows)
            elif len(fits):
                end = int(fits[-1])
            else:
                later = first[first > start]
                end = int(later[0]) if len(later) else len(rows)
            yield rows[start:end], owner[start:end]
            start = end


def views_of(
    examples: Examples, rows: NDArray[np.int64], views: int, augmentation: Augmentation | None, seed: int
) -> Any:
    """The rows' batch, each row repeated as K random views; a row's views depend on its number and the seed only."""
    batch = examples.batch(rows)
    if augmentation is None:
        return batch
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError("augmentation needs a batch of (images, targets)")
    images, targets = (tensor.repeat_interleave(views, 0) for tensor in batch)
    numbers = uniforms(seed, rows, views, augmentation.draws).reshape(len(images), -1)
    return augmentation(images, targets, torch.from_numpy(numbers))


def _unit_means(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of each unit: losses (B,), labels (B,) ascending; returns (U,)."""
    _, position = labels.unique_consecutive(return_inverse=True)
    counts = torch.bincount(position)
    return (
        torch.zeros(len(counts), dtype=torch.float64, device=losses.device).index_add_(
            0, position, losses.detach().double()
        )
        / counts
    )


def _check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that would update something else than the model's parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in own for parameter in held):
        raise ModelError(
            "the optimizer holds parameters that are not the model's",
            why="Their gradients would not pass through the private mechanism.",
            remedy="Build the optimizer from model.parameters() of the very model that is trained.",
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "the model has no trainable parameter", remedy="Set requires_grad on what is to be trained."
        )
