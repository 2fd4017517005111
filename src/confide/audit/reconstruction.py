# SPDX-License-Identifier: Apache-2.0
"""Can an image be got back from gradients? A bound from the plan, and an attack that tries.

*Formal guarantee.* Somebody who could guess a target within some error with probability κ before (the
*prior*) succeeds after seeing every step of the training with a probability of at most
`reconstruction_bound(plan, κ)`: the true-positive rate that the plan's trade-off curve allows at
false-positive rate κ. Balle, Cherubin, Hayes (2022), arXiv:2201.04845; Hayes, Mahloujifar, Balle (2023),
arXiv:2302.07225; Kaissis et al. (2023), arXiv:2307.03928. The bound holds for the plan's unit and for any
attack.

`invert_gradient` is one attack, gradient matching: Geiping et al. (2020), arXiv:2003.14053. That it fails
proves nothing; that it succeeds shows what an unprotected gradient gives away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from confide.audit.tradeoff import plan_curve
from confide.errors import InputError
from confide.gradients.engine import clipped_gradient
from confide.mechanisms.clipping import Clipping, FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan
from confide.training.losses import Loss
from confide.training.mechanism import PrivateMechanism


def reconstruction_bound(plan: PrivacyPlan, prior: float) -> float:
    """Highest probability of reconstructing a unit's data, for whom `prior` was the probability before.

    Raises:
        InputError: If the prior is no probability.
        PlanError: For fixed-size sampling, of which no privacy profile is known.
    """
    if not 0 < prior < 1:
        raise InputError(f"a prior probability of {prior} is outside (0, 1)")
    # Failing has at least the probability that the curve leaves it.
    return min(1.0, 1 - plan_curve(replace(plan, releases=())).least(1 - prior))


def observed_gradient(
    model: nn.Module,
    loss: Loss,
    batch: tuple[Tensor, Tensor],
    plan: PrivacyPlan | None = None,
    clipping: Clipping | None = None,
) -> dict[str, Tensor]:
    """What an attacker sees of one step in which nobody but this one unit was sampled: his best case.

    Args:
        batch: The rows of the unit.
        plan: Its mechanism clips and adds noise; None: the plain gradient, as without DP.
        clipping: Default: flat, with C = 1.
    """
    if plan is None:
        values = loss(model, batch).mean()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return dict(zip(named, torch.autograd.grad(values, list(named.values())), strict=True))
    bounded = clipping or FlatClipping(1.0)
    integers = sum(p.numel() for p in model.parameters() if p.requires_grad) if plan.integers else 0
    mechanism = PrivateMechanism(replace(plan, releases=(), integers=integers), bounded, RunKey.from_os())
    total = mechanism.nothing({n: p.detach() for n, p in model.named_parameters() if p.requires_grad})
    one = torch.zeros(len(batch[0]), dtype=torch.int64)
    out = clipped_gradient(model, loss, batch, clipping=bounded, units=one)
    total.add(out.sums, out.losses.mean().reshape(1), out.factors)
    released = mechanism.release(0, total).gradients
    return {name: value * plan.expected_batch_size for name, value in released.items()}


@dataclass(frozen=True)
class Inversion:
    """An image that was found, and how near it is to the true one.

    Attributes:
        image: (1, C, ...).
        psnr: Peak signal-to-noise ratio in dB, of pixels scaled to [0, 1] by the true image's range.
        correlation: Of the pixels; 1 is the same image up to brightness and contrast.
        prior_psnr: Of the attacker who answers with the mean grey only.
    """

    image: Tensor = field(repr=False)
    psnr: float
    correlation: float
    prior_psnr: float


def invert_gradient(
    model: nn.Module,
    loss: Loss,
    observed: Mapping[str, Tensor],
    truth: tuple[Tensor, Tensor],
    *,
    steps: int = 1000,
    smoothness: float = 1e-4,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Inversion:
    """Search an image whose gradient points where the observed one does.

    The attacker knows model, label and the range of pixels; he maximises the cosine between the gradients,
    with a small price on total variation. Length does not count, so clipping alone does not stop him.

    Args:
        observed: name -> gradient, see `observed_gradient`.
        truth: Image (1, C, ...) and target (1, ...); the image serves to measure success only.
        steps: Of Adam.
    """
    image, target = truth
    generator = torch.Generator().manual_seed(seed)
    low, high = float(image.min()), float(image.max())
    guess = (low + (high - low) * torch.rand(image.shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([guess], 0.05 * (high - low))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    names = list(observed)
    wanted = torch.cat([observed[name].reshape(-1) for name in names])
    parameters = [dict(model.named_parameters())[name] for name in names]
    for step in range(steps):
        found = torch.autograd.grad(loss(model, (guess, target)).sum(), parameters, create_graph=True)
        mine = torch.cat([part.reshape(-1) for part in found])
        distance = 1 - torch.nn.functional.cosine_similarity(mine, wanted, dim=0)
        optimizer.zero_grad()
        (distance + smoothness * _variation(guess)).backward(inputs=[guess])
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            guess.clamp_(low, high)
        if progress is not None:
            progress(step + 1, float(distance))
    return _judged(guess.detach(), image)


def _variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels."""
    spatial = range(2, image.dim())
    parts = [image.diff(dim=axis).abs().mean() for axis in spatial if image.shape[axis] > 1]
    return torch.stack(parts).sum() if parts else image.new_zeros(())


def _judged(guess: Tensor, image: Tensor) -> Inversion:
    span = float(image.max() - image.min())

    def psnr(other: Tensor) -> float:
        error = float(((other - image) / span).double().square().mean())
        return float(-10 * torch.log10(torch.tensor(max(error, 1e-12), dtype=torch.float64)))

    both = torch.stack([guess.reshape(-1), image.reshape(-1)]).double()
    correlation = float(torch.corrcoef(both)[0, 1])
    grey = torch.full_like(image, float(image.mean()))
    return Inversion(guess, psnr(guess), correlation, psnr(grey))
