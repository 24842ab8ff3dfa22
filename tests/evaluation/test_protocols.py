import numpy as np
import pytest

from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.evaluation import metrics
from mprnet_jax.evaluation.protocols import (
    DERAINING,
    DERAINING_MEAN,
    DERAINING_MEAN_EARLIER,
    EARLIER,
    PROTOCOLS,
)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A prediction that leaves [0, 1] and lies between 8-bit values, and its target."""
    random = np.random.default_rng(0)
    smooth = np.cumsum(random.normal(0, 0.05, (40, 50, 3)), axis=1) + 0.5
    target = np.uint8(np.clip(smooth, 0, 1) * 255)
    prediction = np.float32(target / 255 + random.normal(0, 0.1, target.shape))
    assert prediction.min() < 0
    assert prediction.max() > 1
    return prediction, target


def rounded(prediction):
    return np.uint8(np.rint(np.clip(prediction, 0, 1) * 255))


def test_every_benchmark_has_a_protocol():
    assert PROTOCOLS.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("key", DERAINING)
def test_deraining_is_scored_on_8_bit_luma(pair, key):
    prediction, target = pair
    luma = metrics.luma(rounded(prediction)), metrics.luma(target)
    assert PROTOCOLS[key].score(*pair) == (metrics.psnr(*luma), metrics.ssim(*luma))


@pytest.mark.parametrize("key", ["gopro", "hide"])
def test_deblurring_is_scored_on_8_bit_rgb(pair, key):
    images = rounded(pair[0]), pair[1]
    assert PROTOCOLS[key].score(*pair) == (metrics.psnr(*images), metrics.volume_ssim(*images))


@pytest.mark.parametrize("key", ["realblurj", "realblurr"])
def test_realblur_is_scored_after_alignment(pair, key):
    target = pair[1]
    shifted = np.float32(np.roll(target, 1, axis=1) / 255)
    psnr, ssim = PROTOCOLS[key].score(0.9 * shifted, target)
    expected = metrics.aligned_psnr_ssim(rounded(0.9 * shifted) / 255, target / 255)
    assert (psnr, ssim) == expected
    assert psnr > metrics.psnr(rounded(shifted), target)


def test_sidd_is_clipped_but_not_rounded(pair):
    prediction, target = pair
    psnr, ssim = PROTOCOLS["sidd"].score(prediction, target)
    clipped = np.clip(prediction.astype(np.float64), 0, 1)
    assert psnr == pytest.approx(-10 * np.log10(np.mean((clipped - target / 255) ** 2)), abs=1e-9)
    assert ssim == pytest.approx(metrics.volume_ssim(clipped, target / 255), abs=1e-9)
    assert abs(psnr - metrics.psnr(rounded(prediction), target)) > 1e-6


def test_the_mean_for_deraining_is_that_of_the_five_sets():
    psnr, ssim = np.mean([PROTOCOLS[key].published for key in DERAINING], axis=0)
    assert (round(psnr, 2), round(ssim, 3)) == DERAINING_MEAN
    psnr, ssim = np.mean([EARLIER[key].scores for key in DERAINING], axis=0)
    assert (round(psnr, 2), round(ssim, 3)) == DERAINING_MEAN_EARLIER.scores


@pytest.mark.parametrize("key", ["rain100l", "gopro", "realblurj", "sidd"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_targets_are_scored_with_all_their_bits(pair, key, dtype):
    prediction, target = pair
    white = 65535 if dtype == np.uint16 else 1
    exact = (target / 255 * white).astype(dtype)
    score = PROTOCOLS[key].score
    shallow, deep = score(prediction, target), score(prediction, exact)
    # The same pictures but for the rounding of the prediction to 8 bits.
    np.testing.assert_allclose(deep, shallow, atol=0.05)
    # An error of a hundredth of an 8-bit step counts: 20 log10(25500) is 88 dB.
    if dtype == np.uint16 and key == "gopro":
        close = np.clip(exact / 65535 + 0.01 / 255, 0, 1).astype(np.float32)
        assert 85 < score(close, exact).psnr < 95
