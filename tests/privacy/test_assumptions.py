# SPDX-License-Identifier: Apache-2.0
"""Every condition is stated, and none that does not hold."""

from __future__ import annotations

import pytest

from confide.privacy.assumptions import assumptions
from confide.privacy.releases import Release
from confide.privacy.schemes import FixedSizeSampling, PoissonSampling, Sampling
from confide.privacy.units import PrivacyUnit


def stated(
    unit: PrivacyUnit = PrivacyUnit.IMAGE,
    sampling: Sampling | None = None,
    delta: float = 1e-5,
    releases: tuple[Release, ...] = (),
    hardened: bool = False,
) -> str:
    scheme = sampling or PoissonSampling(0.1)
    return "; ".join(
        assumptions(
            unit=unit,
            units=1000,
            delta=delta,
            divisor=100.0,
            sampling=scheme,
            releases=releases,
            hardened=hardened,
        )
    )


@pytest.mark.parametrize(
    "part, change",
    [
        ("carry the same patient number", {"unit": PrivacyUnit.PATIENT}),
        ("moves a clipped sum by up to 2C", {"sampling": FixedSizeSampling(100, 1000)}),
        ("is above 1/(10 n)", {"delta": 5e-4}),
        ("loss (noise multiplier 30)", {"releases": (Release("loss", 30.0),)}),
        ("discrete Gaussian", {"hardened": True}),
    ],
)
def test_a_condition_is_stated_where_it_holds_and_only_there(part: str, change: dict[str, object]) -> None:
    assert part not in stated()
    assert part in stated(**change)  # type: ignore[arg-type]


def test_what_is_always_stated() -> None:
    for part in (
        "n = 1000, is declared public",
        "constant 100",
        "hyper-parameter selection",
        "operating system",
    ):
        assert part in stated()
