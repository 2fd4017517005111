# SPDX-License-Identifier: Apache-2.0
"""The moving average of the weights: post-processing of privatised updates, so it costs no privacy."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of a model's parameters over the steps.

    Args:
        model: Its parameters are averaged in place of `update`.
        decay: Weight of the past; early steps use min(decay, (1+t)/(10+t)), so that the start is forgotten
            quickly (De et al. 2022, arXiv:2204.13650).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        present = [p.detach() for _, p in model.named_parameters()]
        # One call for all tensors.
        torch._foreach_lerp_(list(self.weights.values()), present, 1 - decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def restore(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Go on from an earlier average of the same parameters."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
        self.steps = steps

    @contextmanager
    def applied(self, model: nn.Module) -> Generator[None]:
        """Inside, the model has the averaged weights; afterwards its own again."""
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            try:
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.weights[name])
                yield
            finally:
                for name, parameter in model.named_parameters():
                    parameter.copy_(own[name])
