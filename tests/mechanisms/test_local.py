# SPDX-License-Identifier: Apache-2.0
"""Local mechanisms: stated ε against exact or numerical likelihood ratios, never against the formula under
test."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from confide.errors import PlanError
from confide.mechanisms.keys import RunKey, Stream
from confide.mechanisms.local import (
    CoarseWavelets,
    GaussianPixels,
    LaplacePixels,
    LocalMechanism,
    LowFrequencies,
    Pixelate,
    RandomisedResponse,
    denoise,
)
from confide.mechanisms.local_noise import (
    add_gaussian,
    concentrated_epsilon,
    discrete_laplace,
    gaussian_epsilon,
    lattice_epsilon,
)


def stream() -> Stream:
    return RunKey.from_os().stream("test", step=0)


def test_the_published_scales_have_the_epsilon_of_a_whole_image() -> None:
    # shared/reference/privacy-correctness.md, seed 001: 256×256, β = 1, 2, 4 → 65,536, 32,768, 16,384;
    # colour ×3.
    for scale, pixel, image in ((1, 1, 65_536), (2, 0.5, 32_768), (4, 0.25, 16_384)):
        grey = LaplacePixels(scale).epsilon((1, 256, 256))
        assert (grey.pixel, grey.image) == (pixel, image)
        assert LaplacePixels(scale).epsilon((3, 256, 256)).image == 3 * image


def exact_laplace(scale: float, reach: int) -> np.ndarray:
    k = np.arange(-reach, reach + 1)
    weights = np.exp(-np.abs(k) / scale)
    return weights / weights.sum()


def test_noise_after_normalisation_is_less_private() -> None:
    # reference: ImageNet's constants make the sensitivity 1/0.229 + 1/0.224 + 1/0.225 ≈ 13.28 for three
    # channels.
    std = (0.229, 0.224, 0.225)
    for scale in (1.0, 2.0, 4.0):
        found = LaplacePixels(scale, std).epsilon((3, 224, 224))
        expected = sum(1 / s for s in std) / scale
        assert found.pixel == pytest.approx(expected) and found.image == pytest.approx(50_176 * expected)
    assert LaplacePixels(2, (0.5,)).epsilon((1, 28, 28)).image == 784.0
    with pytest.raises(PlanError, match="3 constants of normalisation for 1 channels"):
        LaplacePixels(2, std).epsilon((1, 28, 28))
    images = np.full((2000, 3, 8, 8), 102, np.uint8)
    added = LaplacePixels(0.7, std).perturb(images, stream()) - 0.4
    # Relative error of a standard deviation of n Laplace numbers: sqrt(5/(4n)); 6 of them: below 1e-8.
    for channel, part in enumerate(std):
        spread = added[:, channel].std() / (math.sqrt(2) * 0.7 * part)
        assert abs(spread - 1) < 6 * math.sqrt(5 / (4 * 128_000))


@pytest.mark.parametrize("scale", [0.01, 0.3, 5.0, 510.0])
def test_the_digits_of_the_noise_have_their_exact_probability(scale: float) -> None:
    """Each coin against 272 bits of mpmath's; and the digits together against the geometric law."""
    import mpmath

    from confide.mechanisms import local_noise

    coins = local_noise._digit_coins(Fraction(scale))
    with mpmath.workprec(500):
        for digit, coin in enumerate(coins):
            exact = 1 / (1 + mpmath.exp(mpmath.mpf(2) ** digit / mpmath.mpf(scale)))
            assert 0 <= exact * mpmath.mpf(2) ** 272 - coin < 1 + mpmath.mpf(2) ** -20 or (
                coin == 0 and exact < 2**-272
            )
        for k in (0, 1, 5, 30):
            together = mpmath.mpf(1)
            for digit, coin in enumerate(coins):
                p = mpmath.mpf(coin) / mpmath.mpf(2) ** 272
                together *= p if k >> digit & 1 else 1 - p
            law = (1 - mpmath.exp(-1 / mpmath.mpf(scale))) * mpmath.exp(-k / mpmath.mpf(scale))
            assert abs(together - law) < mpmath.mpf(2) ** -260


def test_a_tie_of_the_first_bits_is_decided_by_the_next() -> None:
    """A stream whose words are all ties: heads as often as the further digits say, and never by default."""
    from confide.mechanisms import local_noise

    class Ties:
        def __init__(self, rest: int) -> None:
            self.rest = rest

        def bytes(self, count: int) -> bytes:
            return (
                self.rest.to_bytes(32, "little") if count == 32 else (7).to_bytes(2, "little") * (count // 2)
            )

    coin = (7 << 256) + 1000
    for rest, expected in ((999, 1), (1000, 0)):
        assert local_noise._geometric([coin], 5, Ties(rest)).tolist() == [expected] * 5  # pyright: ignore


@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_discrete_laplace_has_its_distribution(scale: float) -> None:
    # χ² over the cells that expect at least 20; false alarm rate 1e-6 for each scale, seeds are fresh.
    from scipy.stats import chi2

    count = 200_000
    drawn = discrete_laplace(scale, (count,), stream())
    reach = int(40 * scale)
    expected = exact_laplace(scale, reach) * count
    observed = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=2 * reach + 1)
    cells = expected >= 20
    statistic = ((observed - expected)[cells] ** 2 / expected[cells]).sum()
    rest = expected[~cells].sum()
    statistic += (observed[~cells].sum() - rest) ** 2 / rest
    assert statistic < chi2.isf(1e-6, cells.sum())


def test_gaussian_noise_is_normal() -> None:
    from scipy.stats import kstest

    # Kolmogorov-Smirnov, false alarm rate 1e-6.
    assert kstest(add_gaussian(np.full(50_000, 3.0), 2.0, stream()) / 2 - 1.5, "norm").pvalue > 1e-6


def ratio(first: np.ndarray, second: np.ndarray, outcomes: np.ndarray, scale: float) -> float:
    """Largest log-likelihood ratio of the outcomes, for discrete Laplace noise of this scale on each
    number."""
    loss = (np.abs(outcomes - second) - np.abs(outcomes - first)) / scale
    return float(loss.reshape(len(outcomes), -1).sum(1).max())


def test_pixelation_stays_within_its_epsilon_and_reaches_it() -> None:
    """The worst pair of images that differ in m pixels has exactly the stated loss, by its own likelihood."""
    mechanism = Pixelate(4, 0.5)
    shape = (3, 8, 8)
    for m in (1, 5, 16, 64):
        stated = mechanism.epsilon(shape, m=m).neighbourhood
        first = np.zeros(shape, np.uint8)
        second = first.reshape(3, -1).copy()
        second[:, :m] = 255
        second = second.reshape(shape)
        sums = [x.reshape(3, 2, 4, 2, 4).sum((2, 4), dtype=np.int64) for x in (first, second)]
        noisy = np.round(mechanism.perturb(np.stack([first] * 4000), stream())[:, :, ::4, ::4] * 255 * 16)
        largest = ratio(sums[0], sums[1], noisy, 0.5 * 255 * 16)
        assert largest <= stated + 1e-9
        # All noise on the far side of zero: the bound is met.
        assert ratio(sums[0], sums[1], np.full((1, *sums[0].shape), -1e6), 0.5 * 255 * 16) == pytest.approx(
            stated
        )
    assert mechanism.epsilon(shape, m=64).neighbourhood == pytest.approx(mechanism.epsilon(shape).image)


@pytest.mark.parametrize(
    ("mechanism", "deviation", "count"),
    [
        (LaplacePixels(0.7), math.sqrt(2) * 0.7, 1),
        (GaussianPixels(0.7), 0.7, 1),
        (Pixelate(4, 0.7), math.sqrt(2) * 0.7, 16),
        # 16 of 64 coefficients are kept, and the transform keeps lengths.
        (LowFrequencies(4, 0.7), 0.7 * math.sqrt(16 / 64), 4),
        (CoarseWavelets(4, 0.7), 0.7 * math.sqrt(16 / 64), 4),
    ],
)
def test_the_noise_added_is_the_noise_stated(mechanism: LocalMechanism, deviation: float, count: int) -> None:
    """Spread of what is added to a grey image; it decides ε more than any formula."""
    images = np.full((3000, 1, 8, 8), 102, np.uint8)
    added = mechanism.perturb(images, stream()) - 0.4
    # `count` values move together. Relative error of a standard deviation of n numbers with kurtosis up to
    # 6 is at
    # most sqrt(5/(4n)); 6 of them: false alarm rate below 1e-8.
    n = added.size / count
    assert abs(added.std() / deviation - 1) < 6 * math.sqrt(5 / (4 * n))
    assert abs(added.mean()) < 6 * deviation * math.sqrt(count / n)


def test_outputs_lie_on_one_lattice_whatever_the_image() -> None:
    images = np.random.default_rng().integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    for values, step in (
        (LaplacePixels(0.3).perturb(images, stream()), 1 / 255),
        (Pixelate(4, 0.3).perturb(images, stream()), 1 / (255 * 16)),
        (GaussianPixels(0.3).perturb(images, stream()), 0.3 * 2.0**-24),
    ):
        np.testing.assert_allclose(values / step, np.round(values / step), atol=1e-6)


def exact_delta(mu: float, epsilon: float) -> float:
    """E over N(μ, 1) against N(0, 1) of the excess over e^ε, in 40 digits."""
    import mpmath

    with mpmath.workdps(40):
        edge = mpmath.mpf(epsilon) / mu + mpmath.mpf(mu) / 2
        return float(mpmath.ncdf(mu - edge) - mpmath.exp(epsilon) * mpmath.ncdf(-edge))


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 5.0, 28.0, 100.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_gaussian_epsilon_is_an_upper_bound_and_tight(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert exact_delta(mu, epsilon) <= delta * (1 + 1e-9)
    if epsilon > 0:
        assert exact_delta(mu, epsilon * (1 - 1e-6) - 1e-9) > delta * (1 - 1e-4)


def test_the_lattice_costs_little_and_never_gains() -> None:
    """Against the continuous mechanism, and where that route ends against dp_accounting's Rényi
    accountant."""
    import dp_accounting

    for mu in (0.1, 1.0, 3.0):
        assert 1 < lattice_epsilon(mu, 1.0, 784, 1e-5) / gaussian_epsilon(mu, 1e-5) < 1.001
    for mu in (1.0, 10.0, 100.0):
        accountant = dp_accounting.rdp.RdpAccountant([1 + x for x in np.geomspace(0.01, 100, 3000)])
        accountant.compose(dp_accounting.GaussianDpEvent(1 / mu))
        known = accountant.get_epsilon(1e-5)
        assert concentrated_epsilon(mu * mu / 2, 1e-5) == pytest.approx(known, rel=1e-3)
        assert concentrated_epsilon(mu * mu / 2, 1e-5) > gaussian_epsilon(mu, 1e-5)
    # 28 in length: e^500 times the distance from a Gaussian is no δ, so only the second bound is left.
    assert lattice_epsilon(28.0, 1.0, 784, 1e-5) >= concentrated_epsilon(28.0**2 / 2, 1e-5)
    assert lattice_epsilon(1.0, 0.01, 1, 1e-5) == math.inf


def test_gaussian_epsilon_of_a_known_mechanism() -> None:
    # shared/reference/privacy-correctness.md: σ = 1, one release, δ = 1e-5 → 4.3772.
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.3772, abs=1e-4)


def test_frequencies_no_pair_is_farther_apart_than_stated() -> None:
    """Sensitivities against the coefficients of scipy's transform, over pixels and over whole images."""
    from scipy.fft import dctn

    keep, shape, stddev = 5, (1, 16, 12), 2.0
    mechanism = LowFrequencies(keep, stddev)
    stated = mechanism.epsilon(shape, m=9)
    single = 0.0
    for y in range(16):
        for x in range(12):
            image = np.zeros((16, 12))
            image[y, x] = 1
            single = max(single, float(np.linalg.norm(dctn(image, norm="ortho")[:keep, :keep])))
    known = gaussian_epsilon(single / stddev, 1e-5)
    assert known <= stated.pixel <= known * (1 + 1e-4)
    rng = np.random.default_rng()
    for _ in range(200):
        difference = rng.integers(-1, 2, (16, 12)).astype(float)
        length = np.linalg.norm(dctn(difference, norm="ortho")[:keep, :keep])
        assert gaussian_epsilon(float(length) / stddev, 1e-5) <= stated.image
    patch = np.zeros((16, 12))
    patch[:3, :3] = 1
    length = float(np.linalg.norm(dctn(patch, norm="ortho")[:keep, :keep]))
    assert gaussian_epsilon(length / stddev, 1e-5) <= stated.neighbourhood


def test_frequencies_without_noise_are_the_low_pass_of_scipy() -> None:
    from scipy.fft import dctn, idctn

    images = np.random.default_rng().integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    kept = dctn(images / 255, axes=(2, 3), norm="ortho")
    kept[:, :, 6:], kept[..., 6:] = 0, 0
    values = LowFrequencies(6, 1e-9).perturb(images, stream())
    # Coefficients are rounded to 2^-16, so 36 of them move a pixel by far less than 1e-3.
    np.testing.assert_allclose(values, idctn(kept, axes=(2, 3), norm="ortho"), atol=1e-3)


def test_wavelets_without_noise_are_means_of_blocks() -> None:
    images = np.random.default_rng().integers(0, 256, (2, 3, 16, 12), dtype=np.uint8)
    with pytest.raises(PlanError, match="no level of 4"):
        CoarseWavelets(4, 1.0).epsilon((3, 16, 12))
    square = images[..., :8, :8]
    values = CoarseWavelets(2, 1e-9).perturb(square, stream())
    means = square.reshape(2, 3, 2, 4, 2, 4).mean((3, 5)) / 255
    np.testing.assert_allclose(values[:, :, ::4, ::4], means, atol=1e-6)
    np.testing.assert_allclose(values[:, :, 3::4, 3::4], means, atol=1e-6)
    # Sensitivity, by hand: a pixel of a block of 4×4 moves one coefficient by 1/4; all of them √64 = 8.
    stated = CoarseWavelets(2, 3.0).epsilon((1, 8, 8))
    assert stated.pixel == pytest.approx(gaussian_epsilon(0.25 / 3, 1e-5), rel=1e-4)
    assert stated.image == pytest.approx(gaussian_epsilon(8 / 3, 1e-5), rel=1e-4)
    whole = CoarseWavelets.for_budget(8.0, keep=7, shape=(1, 28, 28)).epsilon((1, 28, 28)).image
    assert 7.99 < whole <= 8


def test_calibration_never_exceeds_the_budget() -> None:
    for epsilon in (0.5, 3.0, 20.0):
        whole = LowFrequencies.for_budget(epsilon, keep=4, shape=(1, 28, 28)).epsilon((1, 28, 28)).image
        assert 0.999 * epsilon < whole <= epsilon
        some = (
            Pixelate.for_budget(epsilon, block=4, m=16, channels=3).epsilon((3, 28, 28), m=16).neighbourhood
        )
        assert some == pytest.approx(epsilon) and some <= epsilon


def test_randomised_response_keeps_its_ratio() -> None:
    # Counts of 100,000 draws; bounds are 6 standard deviations wide: false alarm rate below 1e-8.
    epsilon, classes, count = 1.5, 4, 100_000
    mechanism = RandomisedResponse(epsilon, classes)
    drawn = mechanism.perturb(np.full(count, 2), stream())
    shares = np.bincount(drawn, minlength=classes) / count
    truth, lie = math.exp(epsilon) / (math.exp(epsilon) + 3), 1 / (math.exp(epsilon) + 3)
    for label, share in enumerate(shares):
        p = truth if label == 2 else lie
        assert abs(share - p) < 6 * math.sqrt(p * (1 - p) / count)
    # The stated ε bounds the exact ratio of its own probabilities.
    assert math.log(mechanism.truth / ((1 - mechanism.truth) / 3)) <= epsilon + 1e-12


def test_a_seeded_key_repeats_and_a_fresh_one_does_not() -> None:
    images = np.zeros((2, 1, 8, 8), np.uint8)

    def once(key: RunKey) -> np.ndarray:
        return LaplacePixels(1.0).perturb(images, key.stream("local images", step=0))

    np.testing.assert_array_equal(once(RunKey.from_seed(3)), once(RunKey.from_seed(3)))
    assert not np.array_equal(once(RunKey.from_os()), once(RunKey.from_os()))


def test_denoising_clamps_and_smooths() -> None:
    values = np.array([[[[-3.0, 0.5, 4.0, 1.0]]]])
    np.testing.assert_array_equal(denoise(values, 0.0), [[[[0, 128, 255, 255]]]])
    flat = np.full((1, 1, 9, 9), 0.5) + np.random.default_rng().normal(0, 0.2, (1, 1, 9, 9))
    assert denoise(flat, 2.0).std() < denoise(flat, 0.0).std()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LaplacePixels(0),
        lambda: LaplacePixels(math.inf),
        lambda: GaussianPixels(-1),
        lambda: GaussianPixels(1, delta=0),
        lambda: Pixelate(0, 1),
        lambda: Pixelate(5, 1).epsilon((1, 28, 28)),
        lambda: Pixelate(4, 1).epsilon((1, 28, 28), m=785),
        lambda: LowFrequencies(29, 1).epsilon((1, 28, 28)),
        lambda: RandomisedResponse(1, 1),
        lambda: RandomisedResponse(1, 3).perturb(np.array([3]), stream()),
        lambda: LaplacePixels(1).perturb(np.zeros((1, 1, 4, 4), np.float32), stream()),  # pyright: ignore
    ],
)
def test_impossible_parameters_are_refused(make) -> None:
    with pytest.raises(PlanError):
        make()
