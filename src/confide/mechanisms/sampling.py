# SPDX-License-Identifier: Apache-2.0
"""Drawing the units of a batch, as the plan's sampling scheme says.

*Formal guarantee.* Each draw has exactly the distribution that `Sampling.event` states to the accountant, and
draws of different steps are independent. The realised number of units is secret and goes nowhere but into the
sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.keys import Stream
from confide.privacy.schemes import FixedSizeSampling, FullBatch, PoissonSampling, Sampling


def draw(sampling: Sampling, units: int, stream: Stream) -> NDArray[np.int64]:
    """Unit numbers of one batch, ascending, of 0..units-1; possibly none.

    Args:
        sampling: The scheme.
        units: How many units there really are.
        stream: The step's own stream.

    Raises:
        PlanError: If the scheme is unknown, or fixed-size sampling meets another number of units than its n,
            which is public under its replace-one adjacency.
    """
    match sampling:
        case PoissonSampling(probability):
            # One coin a unit, in unit order: removing the last unit changes no other unit's coin.
            return np.flatnonzero(stream.bernoulli(probability, units)).astype(np.int64)
        case FixedSizeSampling(size, declared):
            if units != declared:
                raise PlanError(
                    f"fixed-size sampling was made for {declared} units, the data set has {units}",
                    remedy="State the true number of units, or use poisson.",
                )
            return np.sort(stream.permutation(units)[:size])
        case FullBatch():
            return np.arange(units, dtype=np.int64)
        case _:
            raise PlanError(f"{type(sampling).__name__} sampling cannot be drawn")
