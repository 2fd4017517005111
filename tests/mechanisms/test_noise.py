# SPDX-License-Identifier: Apache-2.0
"""The noise is Gaussian, has the stated size, and belongs to its stream alone. Fresh keys in every test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from confide.errors import PlanError
from confide.mechanisms.keys import RunKey
from confide.mechanisms.noise import PIECE, ROUNDING, GaussianNoise, NoiseAhead, standard_normals

MILLION = 1_000_000


def normals(count: int, step: int = 0) -> np.ndarray:
    return standard_normals(RunKey.from_os().stream("noise", step=step), count).numpy()


def test_a_million_draws_are_standard_normal() -> None:
    z = normals(MILLION)
    # Standard errors of mean, variance, skewness, kurtosis: 1, √2, √6, √24 over √N; five of them: 6e-7 each.
    error = 1 / math.sqrt(MILLION)
    assert abs(z.mean()) < 5 * error
    assert abs(z.var() - 1) < 5 * math.sqrt(2) * error
    assert abs(stats.skew(z)) < 5 * math.sqrt(6) * error
    assert abs(stats.kurtosis(z)) < 5 * math.sqrt(24) * error
    # Kolmogorov-Smirnov, false alarm 1e-6.
    assert stats.kstest(z, "norm").pvalue > 1e-6


def test_the_tails_are_there() -> None:
    # Anderson-Darling weighs the tails; its critical value for a known distribution at 1e-6 is below 13.
    z = np.sort(normals(MILLION))
    i = np.arange(1, MILLION + 1)
    statistic = -MILLION - np.mean((2 * i - 1) * (stats.norm.logcdf(z) + stats.norm.logsf(z[::-1])))
    assert statistic < 13
    # Beyond four standard deviations: 63.3 expected of a million; 25 to 115 fails by chance in 1e-6.
    assert 25 <= int((np.abs(z) > 4).sum()) <= 115


def test_the_extremes_of_the_radius_are_finite_and_far_out() -> None:
    from confide.mechanisms.noise import _radius

    # The topmost bit does not count: -2**63 has the other bits of 0.
    words = torch.tensor([0, -(2**63), 1, -1])
    radius = _radius(words, torch.empty(4, dtype=torch.float64))
    assert radius[0] == radius[1] == pytest.approx(math.sqrt(2 * 64 * math.log(2)))  # 9.42
    assert radius[2] == pytest.approx(math.sqrt(-2 * math.log(1.5 * 2.0**-63)))
    assert radius[3] == 0.0


def test_draws_are_independent_within_and_between_streams() -> None:
    key = RunKey.from_os()
    count = 200_000
    streams = [("noise", s, i, r) for s in (0, 1, 2) for i in (0, 1) for r in (0, 1)] + [
        ("statistic", 0, 0, 0)
    ]
    z = np.stack(
        [standard_normals(key.stream(p, step=s, index=i, rank=r), count).numpy() for p, s, i, r in streams]
    )
    # 78 correlations and 60 lags, each below 5.5/√N: false alarm 138·4e-8 = 5e-6.
    bound = 5.5 / math.sqrt(count)
    assert np.abs(np.corrcoef(z)[np.triu_indices(len(z), 1)]).max() < bound
    assert np.abs(np.corrcoef(z**2)[np.triu_indices(len(z), 1)]).max() < 1.1 * bound
    for lag in (1, 2, 3, PIECE // 2 - 1, PIECE // 2, PIECE):  # PIECE/2: the partner of the same pair
        for row in z[:5]:
            assert abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < 1.3 * bound
            assert abs(np.corrcoef(row[:-lag] ** 2, row[lag:] ** 2)[0, 1]) < 1.5 * bound


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_the_ranks_together_add_the_noise_once(ranks: int) -> None:
    noise = GaussianNoise(3.0, ranks=ranks)
    key = RunKey.from_os()
    total = sum(
        noise.add_({"w": torch.zeros(1000, 1000)}, key.stream("noise", step=0, rank=rank))["w"].double()
        for rank in range(ranks)
    )
    assert isinstance(total, torch.Tensor)
    # 0.75 % is 5.3 standard errors of a variance over 1e6 draws: false alarm 1e-7. (0.5 % would be 4e-4: it
    # is tested below on more draws.)
    assert abs(float(total.var()) / 9.0 - 1) < 0.0075
    assert noise.share * math.sqrt(ranks) == pytest.approx(3.0 * (1 + ROUNDING), rel=1e-12)


def test_the_variance_over_sixteen_million_draws_is_within_half_a_percent() -> None:
    # Half a percent is 14 standard errors here: a false alarm is out of the question.
    key = RunKey.from_os()
    squares = sum(
        float(standard_normals(key.stream("noise", step=s), MILLION).square().sum()) for s in range(16)
    )
    assert abs(squares / (16 * MILLION) - 1) < 0.005


def sums() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(7, 3),
        "b": torch.randn(PIECE + 12_345),
        "c": torch.randn((), dtype=torch.float64),
        "d": torch.zeros(0, 4),
        "e": torch.randn(2, 2, 2, dtype=torch.float16),
        "f": torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
    }


def copied(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in given.items()}


@pytest.mark.parametrize("divisor", [1.0, 48.5])
def test_noise_is_the_streams_normals_in_order_added_in_place(divisor: float) -> None:
    given = sums()
    before = copied(given)
    key = RunKey.from_os()
    noisy = GaussianNoise(0.5).add_(given, key.stream("noise", step=3), divisor)
    total = sum(tensor.numel() for tensor in given.values())
    drawn = standard_normals(key.stream("noise", step=3), total) * 0.5 * (1 + ROUNDING)
    position = 0
    for name, tensor in given.items():
        if name != "f":  # not contiguous: copied
            assert noisy[name].data_ptr() == tensor.data_ptr()
        assert noisy[name].shape == tensor.shape
        assert noisy[name].dtype == tensor.dtype
        part = drawn[position : position + tensor.numel()].view(tensor.shape).to(tensor.dtype)
        assert torch.equal(noisy[name], (before[name] + part) / divisor)
        position += tensor.numel()


def test_noise_does_not_depend_on_what_it_is_added_to() -> None:
    key = RunKey.from_os()
    zero, large = {"w": torch.zeros(5000).double()}, {"w": torch.full((5000,), 7.0).double()}
    noise = GaussianNoise(1.0)
    a, b = (noise.add_(copied(s), key.stream("noise", step=1))["w"] - s["w"] for s in (zero, large))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_a_prefix_of_a_stream_is_a_stream() -> None:
    key = RunKey.from_os()
    long, short = (standard_normals(key.stream("noise", step=0), n) for n in (3 * PIECE + 10, 2 * PIECE))
    assert torch.equal(long[: 2 * PIECE], short)


@pytest.mark.parametrize("one_dtype", [True, False])
def test_noise_drawn_ahead_is_the_same_noise_once(one_dtype: bool) -> None:
    key = RunKey.from_os()
    given = {n: t.float() for n, t in sums().items()} if one_dtype else sums()
    drawn: list[int] = []

    def stream(step: int):
        drawn.append(step)
        return key.stream("noise", step=step)

    with NoiseAhead(stream) as ahead:
        # A jump, as after a resume; another noise, as of adaptive clipping; fewer parameters, as of staged
        # training.
        for step, std, names in ((0, 2.0, "abcdef"), (1, 2.0, "abcdef"), (3, 1.5, "abcdef"), (4, 1.5, "abf")):
            noise, some = GaussianNoise(std), {name: given[name] for name in names}
            ahead.begin(noise, step, some)
            got = ahead.add_(noise, copied(some), step, 3.0)
            expected = noise.add_(copied(some), key.stream("noise", step=step), 3.0)
            assert all(torch.equal(expected[name], got[name]) for name in some)
    assert drawn == [0, 1, 3, 4]  # each once, in the thread


@pytest.mark.parametrize("other", ["step", "noise", "count", "dtype", "nothing"])
def test_what_was_begun_for_something_else_is_not_added(other: str) -> None:
    key, noise = RunKey.from_os(), GaussianNoise(1.0)
    sums = {"w": torch.zeros(100, dtype=torch.float64)}
    begun = {"count": torch.zeros(99).double(), "dtype": torch.zeros(100, dtype=torch.float16)}
    with NoiseAhead(lambda step: key.stream("noise", step=step)) as ahead:
        if other != "nothing":
            ahead.begin(
                GaussianNoise(2.0) if other == "noise" else noise,
                2 if other == "step" else 1,
                {"w": begun.get(other, sums["w"])},
            )
        got = ahead.add_(noise, copied(sums), 1)
        again = ahead.add_(noise, copied(sums), 2)  # nothing is left of what was begun
    assert torch.equal(got["w"], noise.add_(copied(sums), key.stream("noise", step=1))["w"])
    assert torch.equal(again["w"], noise.add_(copied(sums), key.stream("noise", step=2))["w"])


def test_what_fails_in_the_thread_fails_the_step_and_no_other() -> None:
    key, noise = RunKey.from_os(), GaussianNoise(1.0)

    class Failing(GaussianNoise):
        def draw(self, stream: object, out: torch.Tensor) -> torch.Tensor:
            out.zero_()
            raise MemoryError

    with NoiseAhead(lambda step: key.stream("noise", step=step)) as ahead:
        sums = {"w": torch.zeros(100)}
        ahead.begin(Failing(1.0), 1, sums)
        with pytest.raises(MemoryError):
            ahead.add_(Failing(1.0), copied(sums), 1)
        got = ahead.add_(noise, copied(sums), 1)
    assert torch.equal(got["w"], noise.add_(copied(sums), key.stream("noise", step=1))["w"])


@pytest.mark.parametrize("stddev, ranks", [(0.0, 1), (-1.0, 1), (math.nan, 1), (math.inf, 1), (1.0, 0)])
def test_noise_that_protects_nothing_is_refused(stddev: float, ranks: int) -> None:
    with pytest.raises(PlanError):
        GaussianNoise(stddev, ranks)
