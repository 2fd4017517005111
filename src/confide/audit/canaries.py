# SPDX-License-Identifier: Apache-2.0
"""Canaries: made-up privacy units that an audit adds to real training, each by a fair coin.

A *gradient canary* has a gradient in a direction of its own and nowhere else, longer than any clip norm:
after clipping it is C·e_j exactly, the worst case that the guarantee has to cover. The direction is a
parameter that the model does not use, so the model trains as ever. An *input canary* is an image with a
wrong label; it is what somebody could do who can add images but sees the finished model only.

Everything goes through the real code: canaries are rows of the data set, with a loss, sampled, viewed,
clipped and noised as all others are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from confide.data.imageset import Rows
from confide.errors import InputError
from confide.mechanisms.clipping import Clipping, PerLayerClipping
from confide.training.examples import Examples
from confide.training.losses import Loss

# Targets from here on name a gradient canary; row numbers from here on are canaries' rows.
CODE = 1 << 40
# A gradient canary's length before clipping, in clip norms. Adaptive bounds may grow, so it is far above 1.
LENGTH = 1e6
BANK = "bank.weight"


class CanariedModel(nn.Module):
    """A model beside a bank of directions that only canaries move.

    Args:
        network: The model under audit.
        canaries: m, the number of directions.
    """

    def __init__(self, network: nn.Module, canaries: int) -> None:
        super().__init__()
        self.network = network
        # The last row stands for "no canary"; an embedding has an exact and cheap per-sample rule.
        self.bank = nn.Embedding(canaries + 1, 1)
        nn.init.zeros_(self.bank.weight)

    def forward(self, images: Tensor) -> Tensor:
        """The network's own scores."""
        return self.network(images)


@dataclass(frozen=True)
class CanaryLoss:
    """The loss of the real rows; for a gradient canary a multiple of its own parameter.

    Attributes:
        loss: Of the real rows.
        length: Norm of a canary's gradient before clipping.
    """

    loss: Loss
    length: float

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """(B,) losses. A canary's image passes through the network and counts zero."""
        assert isinstance(model, CanariedModel)
        images, targets = batch
        code = targets if targets.dim() == 1 else targets.flatten(1).amax(1)
        canary = code >= CODE
        mask = canary.view(-1, *[1] * (targets.dim() - 1))
        real = self.loss(model.network, (images, torch.where(mask, torch.zeros_like(targets), targets)))
        none = torch.full_like(code, model.bank.num_embeddings - 1)
        own = model.bank(torch.where(canary, code - CODE, none)[:, None])[:, 0, 0]
        return torch.where(canary, self.length * own.to(real.dtype), real)


@dataclass
class CanariedExamples:
    """A data set with the canaries that are in.

    Under add-or-remove-one they come on top. Under replace-one the number of units is public, so canary j
    takes the place of unit j.

    Attributes:
        base: The real rows.
        images: (m, C, ...) of all canaries, in or out.
        targets: (m, ...) of all canaries.
        included: (m,) the coins.
        replace: Whether canaries take the place of real units.
        drawn: (m,) how often each canary was sampled so far. What the auditor sees, not the attacker.
    """

    base: Examples
    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    included: NDArray[np.bool_] = field(repr=False)
    replace: bool = False
    drawn: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.drawn = np.zeros(len(self.included), dtype=np.int64)
        self._numbers = np.flatnonzero(self.included).astype(np.int64)
        if self.replace and len(self.included) > self.base.n_units:
            raise InputError(
                f"{len(self.included)} canaries cannot take the place of {self.base.n_units} units",
                remedy="Use fewer canaries.",
            )

    @property
    def n_units(self) -> int:
        """Real units and canaries."""
        return self.base.n_units + (0 if self.replace else len(self._numbers))

    def rows_of(self, units: Rows) -> tuple[Rows, Rows]:
        """The rows of these units, unit after unit, and for each row the position of its unit in `units`."""
        canary = self._canary_of(units)
        is_canary = canary >= 0
        np.add.at(self.drawn, canary[is_canary], 1)
        places = np.flatnonzero(~is_canary)
        rows, owner = self.base.rows_of(units[places])
        rows = np.concatenate([rows, CODE + canary[is_canary]])
        owner = np.concatenate([places[owner], np.flatnonzero(is_canary)])
        order = np.argsort(owner, kind="stable")
        return rows[order], owner[order].astype(np.int64)

    def _canary_of(self, units: Rows) -> Rows:
        """The canary that each unit is, or -1."""
        if self.replace:
            within = units < len(self.included)
            slot = np.where(within, units, 0)
            return np.where(within & self.included[slot], slot, -1)
        extra = units - self.base.n_units
        numbers = np.append(self._numbers, -1)
        return np.where(extra >= 0, numbers[np.maximum(extra, -1)], -1)

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Images (B, C, ...) and targets (B, ...)."""
        is_canary = rows >= CODE
        real_images, real_targets = pair(self.base.batch(rows[~is_canary]))
        if not is_canary.any():
            return real_images, real_targets
        number = torch.from_numpy(rows[is_canary] - CODE)
        order = torch.from_numpy(
            np.argsort(np.concatenate([np.flatnonzero(~is_canary), np.flatnonzero(is_canary)]), kind="stable")
        )
        images = torch.cat([real_images, self.images[number].to(real_images.dtype)])
        targets = torch.cat([real_targets.long(), self.targets[number]])
        return images[order], targets[order]


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """A batch as images and targets.

    Raises:
        InputError: If it is something else, or its targets are no integers.
    """
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError("an audit needs batches of (images, targets)", remedy="Put the rest into the model.")
    images, targets = batch
    if targets.dtype.is_floating_point:
        raise InputError("an audit needs integer targets: classes or masks", why=f"They are {targets.dtype}.")
    return images, targets


def gradient_canaries(base: Examples, count: int) -> tuple[Tensor, Tensor]:
    """Blank images (m, C, ...), and targets (m, ...) that name the canary. Reads shapes only."""
    images, targets = pair(base.batch(np.zeros(0, dtype=np.int64)))
    codes = CODE + torch.arange(count).view(-1, *[1] * (targets.dim() - 1))
    return (
        torch.zeros(1, *images.shape[1:]).expand(count, *images.shape[1:]),
        codes.expand(count, *targets.shape[1:]),
    )


def canaried_clipping(clipping: Clipping) -> Clipping:
    """The clipping of the canaried model: for per-layer clipping the bank is one layer more.

    The bank gets the bound that all other layers have together, so its canaries stand out of the noise by
    1/√2 of what a worst case would: the audit is weaker there, not wrong.
    """
    if not isinstance(clipping, PerLayerClipping):
        return clipping
    own = tuple((f"network.{layer}" if layer else "network", bound) for layer, bound in clipping.bounds)
    return PerLayerClipping((*own, ("bank", clipping.sensitivity)))


def canary_share(clipping: Clipping) -> float:
    """A clipped canary's length, as a share of the sensitivity by which the noise is scaled."""
    if isinstance(clipping, PerLayerClipping):
        return dict(clipping.bounds)["bank"] / clipping.sensitivity
    return 1.0


def canary_length(clipping: Clipping) -> float:
    """A length before clipping that any clipping cuts down, finite in float32."""
    length = LENGTH * max(1.0, clipping.sensitivity)
    if not math.isfinite(length) or length > 1e30:
        raise InputError(f"a clip norm of {clipping.sensitivity:g} leaves no room for canaries")
    return length
