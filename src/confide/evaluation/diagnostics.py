# SPDX-License-Identifier: Apache-2.0
"""What one batch says about its gradients: sparsity, the share that is clipped, and a histogram of norms.

*No guarantee.* Nothing here is noised. Of private training data these figures lie outside every guarantee;
they belong to public data, or to runs that declare them. A `DiagnosticLine` says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from confide.evaluation.sparsity import THRESHOLD, NormHistogram, norm_histogram
from confide.gradients.engine import clipped_gradient
from confide.gradients.reference import Loss, batch_length, per_sample_gradients, pick
from confide.gradients.scrutiny import unchanged_buffers
from confide.gradients.units import Units
from confide.gradients.walking import trainable
from confide.mechanisms.clipping import Clipping

# Gradient entries held at once: 16 million float32 are 64 MB.
_ENTRIES = 16_000_000


@dataclass(frozen=True)
class GradientDiagnostics:
    """Un-noised statistics of a batch.

    Attributes:
        sparsity: Mean over units of the share of a gradient's entries that are at most the threshold in
            magnitude (1 - ℓ⁰/p); NaN for a batch of none.
        clip_fraction: Share of units that clipping scales down; NaN for a batch of none.
        norms: Histogram of the units' norms before clipping.
    """

    sparsity: float
    clip_fraction: float
    norms: NormHistogram

    def line(self) -> dict[str, Any]:
        """The fields of a `DiagnosticLine` but step, epoch and public; NaN becomes None."""
        shares = {"sparsity": self.sparsity, "clip_fraction": self.clip_fraction}
        return {
            **{name: value if value == value else None for name, value in shares.items()},
            "norm_edges": self.norms.edges.tolist(),
            "norm_counts": self.norms.counts.tolist(),
        }


def diagnostics(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    clipping: Clipping,
    *,
    units: Tensor | None = None,
    threshold: float = THRESHOLD,
) -> GradientDiagnostics:
    """Diagnostics of a batch, with the norms and factors of the very engine that trains.

    ℓ⁰ needs the gradients themselves, so a few units' gradients at a time are formed for it.

    Args:
        model: The model as it stands; nothing is left on it.
        loss: `loss(model, batch) -> (B,)`.
        batch: Any pytree of tensors with leading dimension B.
        clipping: How units are clipped.
        units: (B,) privacy unit of each row; default: each row is its own.
        threshold: Entries up to here count as zero.
    """
    found = clipped_gradient(model, loss, batch, clipping=clipping, units=units)
    scaled_down = (found.factors < 1).any(dim=1)
    return GradientDiagnostics(
        sparsity=_mean(_sparsity_of_units(model, loss, batch, units, threshold)),
        clip_fraction=_mean(scaled_down.double()),
        norms=norm_histogram(found.norms),
    )


def _sparsity_of_units(
    model: nn.Module, loss: Loss, batch: Any, units: Tensor | None, threshold: float
) -> Tensor:
    """(U,) share of small entries in each unit's gradient, the mean of its rows' gradients."""
    parameters = trainable(model)
    size = sum(p.numel() for p in parameters.values())
    device = next(iter(parameters.values())).device
    rows = batch_length(batch)
    if rows == 0:
        return torch.zeros(0, dtype=torch.float64)
    owners = Units.of(units, rows, device)
    shares: list[Tensor] = []
    for chunk in owners.chunks(max(1, _ENTRIES // size)):
        with unchanged_buffers(model):
            gradients = per_sample_gradients(model, loss, pick(batch, chunk))
        index = torch.unique(owners.index[chunk], return_inverse=True)[1]
        count = torch.bincount(index)
        large = torch.zeros(len(count), dtype=torch.float64, device=device)
        for gradient in gradients.values():
            flat = gradient.detach().reshape(len(chunk), -1)
            mean = flat.new_zeros((len(count), flat.shape[1])).index_add_(0, index, flat)
            mean /= count.to(mean.dtype)[:, None]
            large += (~(mean.abs() <= threshold)).sum(dim=1)
        shares.append(1 - large / size)
    return torch.cat(shares).cpu()


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else float("nan")
