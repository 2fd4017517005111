# SPDX-License-Identifier: Apache-2.0
"""Losses of the form confide trains with: a model and a batch in, one value per sample out.

A mean over the batch would hide the samples from the clipping; a mean over the pixels of one sample is fine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.gradients.precision import lengthened

Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of class scores; for masks the mean over a sample's pixels.

    batch: images (B, C, ...) and integer targets (B,) or (B, ...); returns (B,).
    """
    images, targets = batch
    losses = F.cross_entropy(model(images), targets, reduction="none")
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


def weighted_cross_entropy(weights: Sequence[float]) -> Loss:
    """Cross-entropy times a public weight of the target's class; not normalised by the batch's weights.

    Args:
        weights: One a class. They come from outside: frequencies in private data would be a release.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        images, targets = batch
        scores = model(images)
        each = torch.tensor(weights, dtype=scores.dtype, device=scores.device)
        losses = F.cross_entropy(scores, targets, weight=each, reduction="none")
        return losses if losses.dim() == 1 else losses.flatten(1).mean(1)

    return loss


def dice(model: nn.Module, batch: Batch) -> Tensor:
    """One minus the soft Dice overlap of each sample, averaged over the foreground classes.

    batch: images (B, C, ...) and integer masks (B, ...); returns (B,). The smoothing term of 1 gives an empty
    mask a finite gradient. Milletari et al. (2016), arXiv:1606.04797.
    """
    images, masks = batch
    scores = model(images)
    shares = torch.softmax(scores, 1)[:, 1:].flatten(2)
    wanted = F.one_hot(masks, scores.shape[1]).movedim(-1, 1)[:, 1:].flatten(2).to(shares.dtype)
    overlap = 2 * (shares * wanted).sum(2) + 1
    return (1 - overlap / (shares.sum(2) + wanted.sum(2) + 1)).mean(1)


def shortened(loss: Loss, dtype: torch.dtype = torch.bfloat16) -> Loss:
    """A loss whose model computes its products in a shorter dtype, by autocast.

    Parameters, normalisation and the loss itself stay float32, and so do norms, clipping and noise.
    """

    def short(model: nn.Module, batch: Batch) -> Tensor:
        device = next(model.parameters()).device
        with torch.autocast(device.type, dtype):
            return lengthened(loss(model, batch))

    return short


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "dice": dice}
