# SPDX-License-Identifier: Apache-2.0
"""What a trained model says about held-out images."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from confide.data.imageset import ImageSet


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode without gradients; each module's own mode comes back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def scores(model: nn.Module, images: ImageSet, batch_size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
    """Raw scores (B, K, ...) and targets (B, ...) of a split, batch after batch, in row order, on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(images), batch_size):
            inputs, targets = images.batch(np.arange(start, min(start + batch_size, len(images))))
            yield model(inputs.to(device)).float().cpu(), targets


def probabilities(
    model: nn.Module, images: ImageSet, batch_size: int = 512
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Class probabilities (N, K) and labels (N,) of a classification split."""
    parts = [
        (torch.softmax(given, 1).numpy(), wanted.numpy())
        for given, wanted in scores(model, images, batch_size)
    ]
    return np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])
