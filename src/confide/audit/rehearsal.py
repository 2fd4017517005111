# SPDX-License-Identifier: Apache-2.0
"""A training run under attack: the real loop with canaries among the real units.

The attacker of DP-SGD's guarantee sees every noisy gradient, so that is what `rehearse` looks at. Steinke et
al. (2023), arXiv:2305.08846. `rehearse_black_box` looks at the finished model only.

What leaves a rehearsal are scores of canaries. Real units have gradient zero in the directions of gradient
canaries, so these scores tell nothing about them, and the model is thrown away: no privacy is spent. The
scores of input canaries come from a model that was trained on the real units, under the plan's own guarantee.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from confide.audit.canaries import (
    CanariedExamples,
    CanariedModel,
    CanaryLoss,
    canaried_clipping,
    canary_length,
    canary_share,
    gradient_canaries,
)
from confide.data.augment import Augmentation
from confide.errors import InputError
from confide.mechanisms.clipping import Clipping, FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import Adjacency
from confide.training.admission import check_unit
from confide.training.examples import as_examples
from confide.training.losses import Loss
from confide.training.mechanism import with_releases
from confide.training.scoring import evaluating
from confide.training.step import Charge, Work, private_steps

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with rate 0.1: which optimizer it is makes no difference to the canaries."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)


@dataclass(frozen=True)
class Subject:
    """The training that is audited: everything that `private_steps` would get.

    Attributes:
        model: Its weights are left as they are.
        dataset: The private rows.
        plan: The claim.
        loss: `loss(model, batch) -> (B,)`.
        clipping: Or a clip norm, for flat clipping.
        optimizer: Makes the optimizer for a model.
    """

    model: nn.Module = field(repr=False)
    dataset: Any = field(repr=False)
    plan: PrivacyPlan
    loss: Loss = field(repr=False)
    clipping: Clipping | float = 1.0
    optimizer: MakeOptimizer = field(default=plain_sgd, repr=False)
    units: Any = field(default=None, repr=False)
    views: int = 1
    augmentation: Augmentation | None = None
    release_loss: bool = True
    work: Work = field(default_factory=Work)

    @property
    def bounded(self) -> Clipping:
        """The clipping."""
        return self.clipping if isinstance(self.clipping, Clipping) else FlatClipping(self.clipping)

    def steps_plan(self, steps: int | None) -> PrivacyPlan:
        """The plan of the first `steps` steps; all of them by default.

        Raises:
            InputError: If the plan has fewer.
        """
        if steps is None:
            return self.plan
        if not 1 <= steps <= self.plan.steps:
            raise InputError(f"{steps} steps of a run that has {self.plan.steps}")
        return replace(self.plan, steps=steps)


@dataclass(frozen=True)
class Rehearsal:
    """What an audited run showed.

    Attributes:
        plan: Of the steps that were taken.
        scores: (m,) how much each canary looks as if it was in.
        included: (m,) whether it was.
        drawn: How often the included canaries were sampled in all.
    """

    plan: PrivacyPlan
    scores: NDArray[np.float64] = field(repr=False)
    included: NDArray[np.bool_] = field(repr=False)
    drawn: int


def rehearse(
    subject: Subject,
    *,
    canaries: int = 1000,
    steps: int | None = None,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rehearsal:
    """Train with gradient canaries and score each by what the noisy gradients say.

    The score is the logarithm of the likelihood ratio under the claim, Σ_t log(1 − q + q·e^((y_t − ½)/σ²)):
    the best that an attacker can do against the claimed mechanism, and a valid score against any other.

    Args:
        canaries: m.
        steps: How many of the plan's steps to take; default: all. Fewer steps leak less.
        seed: Of the coins; default: the operating system's entropy.
        progress: Called with (steps taken, steps in all).
    """
    plan, clipping = subject.steps_plan(steps), canaried_clipping(subject.bounded)
    check_unit(plan, subject.dataset, grouped=subject.units is not None)
    included = _coins(canaries, seed)
    base = as_examples(subject.dataset, subject.units)
    examples = CanariedExamples(
        base,
        *gradient_canaries(base, canaries),
        included,
        replace=plan.sampling.adjacency is Adjacency.REPLACE_ONE,
    )
    network = copy.deepcopy(subject.model)
    model = CanariedModel(network, canaries).to(next(network.parameters()).device)
    model.train(network.training)
    # The optimizer does not hold the bank: its noisy gradient stays where private_steps put it, to be read.
    loop = private_steps(
        model,
        subject.optimizer(network),
        examples,
        # The bank's numbers are released too.
        replace(plan, integers=plan.integers + canaries + 1) if plan.integers else plan,
        loss=CanaryLoss(subject.loss, canary_length(clipping)),
        clipping=clipping,
        views=subject.views,
        augmentation=subject.augmentation,
        release_loss=subject.release_loss,
        work=subject.work,
        key=RunKey.from_os(),
    )
    claimed = with_releases(plan, clipping, loss=subject.release_loss)
    share, now = canary_share(clipping), clipping
    scores = np.zeros(canaries)
    for step in loop:
        seen = _read_bank(model)[:canaries] * (plan.expected_batch_size / now.sensitivity)
        scores += _evidence(seen, plan.sampling_rate, claimed.gradient_noise_multiplier, share)
        if step.unclipped is not None:
            now = now.updated(step.unclipped)
        if progress is not None:
            progress(step.number, plan.steps)
    return Rehearsal(plan, scores, included, int(examples.drawn.sum()))


def _read_bank(model: CanariedModel) -> NDArray[np.float64]:
    gradient = model.bank.weight.grad
    assert gradient is not None  # private_steps sets the gradient of every trainable parameter
    return gradient.detach().double().cpu().numpy()[:, 0].copy()


def _evidence(seen: NDArray[np.float64], rate: float, sigma: float, share: float) -> NDArray[np.float64]:
    """Log-likelihood ratio of each observation: in with probability q, against out."""
    exponent = (share * seen - share**2 / 2) / sigma**2
    absent = np.log1p(-rate) if rate < 1 else -np.inf
    # A diverged sum is no evidence.
    return np.nan_to_num(np.logaddexp(absent, np.log(rate) + exponent), nan=0.0, posinf=1e30, neginf=-1e30)


def rehearse_black_box(
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int | None = None,
    seed: int | None = None,
    charge: Charge | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rehearsal:
    """Train with mislabelled images and score each by how much the training lowered its loss.

    Args:
        images: (m, C, ...) public or held-out images, normalised as the data set's.
        labels: (m, ...) wrong labels, see `mislabelled`.
        charge: Charges every step: the scores come from a model of the real units and spend what the plan
            does.
    """
    plan = subject.steps_plan(steps)
    included = _coins(len(images), seed)
    examples = CanariedExamples(
        as_examples(subject.dataset, subject.units),
        images,
        labels,
        included,
        replace=plan.sampling.adjacency is Adjacency.REPLACE_ONE,
    )
    model = copy.deepcopy(subject.model)
    before = unit_losses(model, subject.loss, images, labels)
    for step in private_steps(
        model,
        subject.optimizer(model),
        examples,
        plan,
        loss=subject.loss,
        clipping=subject.bounded,
        views=subject.views,
        augmentation=subject.augmentation,
        release_loss=subject.release_loss,
        work=subject.work,
        key=RunKey.from_os(),
        charge=charge,
    ):
        if progress is not None:
            progress(step.number, plan.steps)
    scores = np.nan_to_num(before - unit_losses(model, subject.loss, images, labels), nan=-1e30)
    return Rehearsal(plan, scores, included, int(examples.drawn.sum()))


def mislabelled(labels: Tensor, classes: int, seed: int | None = None) -> Tensor:
    """Another class for each label, uniformly at random.

    Raises:
        InputError: If there is no other class.
    """
    if classes < 2:
        raise InputError("a wrong label needs a second class")
    shift = np.random.default_rng(seed).integers(1, classes, size=len(labels))
    return (labels + torch.from_numpy(shift).view(-1, *[1] * (labels.dim() - 1))) % classes


def unit_losses(
    model: nn.Module, loss: Loss, images: Tensor, labels: Tensor, batch_size: int = 256
) -> NDArray[np.float64]:
    """(m,) losses of a model in evaluation mode."""
    device = next(model.parameters()).device
    with evaluating(model):
        parts = [
            loss(model, (images[i : i + batch_size].to(device), labels[i : i + batch_size].to(device)))
            for i in range(0, len(images), batch_size)
        ]
    return torch.cat(parts).double().cpu().numpy()


def _coins(count: int, seed: int | None) -> NDArray[np.bool_]:
    if count < 12:
        raise InputError(f"{count} canaries can refute nothing", remedy="Use some hundreds.")
    return np.random.default_rng(seed).random(count) < 0.5
