import numpy as np
import pytest

from benchmarks import quality
from mprnet_jax.data import sample


@pytest.fixture(scope="module")
def photos():
    return [sample.photo(name)[100:196, 100:196] for name in ("coffee.png", "chelsea.png")]


@pytest.mark.parametrize("name", [name for name in quality.METHODS if name != "CBM3D"])
def test_tuned_methods_remove_noise_and_keep_clean_photos(name, photos):
    method = quality.METHODS[name]
    noisy = quality.degraded(quality.NOISES["Gaussian 25"], photos)
    factor = quality.tuned(method, noisy, photos)
    score, results = quality.measure(method, factor, noisy, photos)
    before, _ = quality.measure(lambda image, _: image, 1.0, noisy, photos)
    assert score.psnr.mean() > before.psnr.mean() + 3
    assert score.ssim.mean() > before.ssim.mean()
    assert all(result.dtype == np.uint8 for result in results)
    assert quality.psnr(method(photos[0], 0.0), photos[0]) > 38


def test_the_factor_of_the_best_mean_is_taken(photos):
    noisy = quality.degraded(quality.NOISES["Gaussian 15"], photos)
    sigma = [quality.rms(n, p) for n, p in zip(noisy, photos)]

    def method(image, given):  # right only when told 1.4 times the noise
        index = [image is n for n in noisy].index(True)
        return photos[index] if given == pytest.approx(1.4 * sigma[index]) else image

    assert quality.tuned(method, noisy, photos) == 1.4


def test_photos_are_degraded_alike_in_each_run(photos):
    for noise in quality.NOISES.values():
        for first, again in zip(quality.degraded(noise, photos), quality.degraded(noise, photos)):
            np.testing.assert_array_equal(first, again)


def test_the_gain_has_its_confidence_interval():
    zeros = np.zeros(4)
    ours = quality.Score(np.array([30.0, 31, 32, 33]), zeros, zeros)
    other = quality.Score(np.array([29.0, 31, 31, 31]), zeros, zeros)
    # Gains 1, 0, 1, 2: mean 1, deviation sqrt(2 / 3), half width 1.96 * 0.8165 / 2.
    assert quality.difference(ours, other) == "+1.00 ± 0.80"
