# SPDX-License-Identifier: Apache-2.0
"""What a guarantee rests on. Every condition is said wherever the guarantee is."""

from __future__ import annotations

from confide.privacy.guarantee import delta_text
from confide.privacy.releases import Release
from confide.privacy.schemes import Sampling
from confide.privacy.units import Adjacency, PrivacyUnit


def assumptions(
    *,
    unit: PrivacyUnit,
    units: int,
    delta: float,
    divisor: float,
    sampling: Sampling,
    releases: tuple[Release, ...],
    hardened: bool,
) -> tuple[str, ...]:
    """The conditions of a plan's guarantee, as clauses without a full stop."""
    stated = [
        f"the number of {unit}s, n = {units}, is declared public",
        f"sums are divided by the constant {divisor:g}, the expected batch size, whatever the realised size",
        "the random key came from the operating system and is never stored; realised batches stay secret",
    ]
    if unit is PrivacyUnit.PATIENT:
        stated.append("all rows of a patient carry the same patient number")
    else:
        stated.append(f"the guarantee is per {unit}: a patient with several {unit}s is protected less")
    if sampling.adjacency is Adjacency.REPLACE_ONE:
        stated.append(f"neighbours replace one {unit}, so that one {unit} moves a clipped sum by up to 2C")
    stated.append("validation and test images are not protected by it")
    stated.append(
        "hyper-parameter selection is not accounted for: choices made by looking at earlier runs on the same"
        " data are outside this ε; the ledger counts those runs"
    )
    if hardened:
        stated.append("gradients are integers on a grid and the noise is discrete Gaussian")
    else:
        stated.append(
            "floating-point noise is not hardened: attacks on the last bits of released numbers are not"
            " excluded"
        )
    if delta > 0.1 / units:
        stated.append(
            f"δ = {delta_text(delta)} is above 1/(10 n) = {0.1 / units:.2g}: a smaller one is recommended"
        )
    if releases:
        names = ", ".join(f"{r.name} (noise multiplier {r.noise_multiplier:.4g})" for r in releases)
        stated.append(f"every step also releases, within the same budget: {names}")
    return tuple(stated)
