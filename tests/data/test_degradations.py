import cv2
import numpy as np
import pytest

from mprnet_jax import config
from mprnet_jax.data import degradations, sample

ALL = list(degradations.DEGRADATIONS.values())


def rms(a, b):
    return np.sqrt(np.mean((a.astype(float) - b) ** 2))


@pytest.fixture(scope="module")
def coffee():
    return sample.photo("coffee.png")


@pytest.mark.parametrize("degrade", ALL)
def test_degradations_follow_their_generator(degrade, coffee):
    first, again, other = (degrade(coffee, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.dtype == np.uint8
    assert first.shape == coffee.shape
    np.testing.assert_array_equal(first, again)
    assert rms(first, other) > 2


def test_rain_brightens_and_varies(coffee):
    rained = [degradations.add_rain(coffee, np.random.default_rng(seed)) for seed in range(8)]
    strengths = [rms(image, coffee) for image in rained]
    assert all((image >= coffee.astype(int) - 1).all() for image in rained)  # 1: rounding
    assert max(strengths) > 2 * min(strengths) > 2
    assert len({round(s, 3) for s in strengths}) == 8


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_streaks_have_their_length_and_angle(angle):
    kernel = degradations.streak(length=20, angle=angle, width=0.8)
    y, x = np.nonzero(kernel > 0.5)
    along = y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    # Half maximum lies 1.18 widths beyond each end; the grid takes up to one pixel there.
    assert np.ptp(along) == pytest.approx(20 + 2 * 1.18 * 0.8, abs=2)
    assert np.ptp(across) < 3


def test_blur_smears_a_dot_along_a_short_line_and_keeps_the_light():
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[19:22, 19:22] = 255
    lengths = []
    for seed in range(8):
        blurred = degradations.add_blur(dot, np.random.default_rng(seed))
        # 3 %: thousands of small values are rounded.
        assert int(blurred.sum()) == pytest.approx(int(dot.sum()), rel=0.03)
        centre, (long, short), _ = cv2.minAreaRect(
            np.argwhere(blurred[..., 0] > 10).astype(np.float32)
        )
        np.testing.assert_allclose(centre, [20, 20], atol=1)
        lengths.append(max(long, short))
        assert min(long, short) < 6
    assert max(lengths) > min(lengths) + 3


def test_blur_leaves_flat_pictures_alone_up_to_their_borders():
    flat = np.full((20, 20, 3), 90, np.uint8)
    np.testing.assert_array_equal(degradations.add_blur(flat, np.random.default_rng(0)), flat)


def test_noise_has_a_variance_that_grows_with_the_light():
    image = np.full((400, 100, 3), 100, np.uint8)
    image[:200] = 150
    ratios = []
    for seed in range(6):
        noise = degradations.add_noise(image, np.random.default_rng(seed)).astype(float) - image
        light, dark = noise[:200].std(), noise[200:].std()
        assert 20 < dark < np.sqrt(30**2 + 4 * 100)
        assert abs(noise.mean()) < 1  # next to nothing is clipped here
        ratios.append(light / dark)
    # 0.97: two samples of 60,000 differ by half a percent at random.
    assert min(ratios) > 0.97
    assert max(ratios) > 1.05


def test_configs_know_the_degradations_by_name():
    assert tuple(degradations.DEGRADATIONS) == config.DEGRADATIONS


@pytest.mark.parametrize("deviation", [5, 25, 50])
def test_gaussian_noise_has_its_deviation(deviation):
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = degradations.add_gaussian_noise(grey, np.random.default_rng(0), deviation)
    # 2 %: 120,000 values, of which those beyond 0 and 255 are clipped.
    assert noisy.astype(float).std() == pytest.approx(deviation, rel=0.02)


def test_blind_noise_has_all_strengths_and_leaves_some_photos_clean(coffee):
    patch = coffee[:96, :96]
    errors = [
        rms(degradations.add_blind_noise(patch, np.random.default_rng(seed)), patch)
        for seed in range(300)
    ]
    clean = np.mean(np.equal(errors, 0))
    assert 0.02 < clean < 0.09
    assert np.percentile(errors, 10) < 8
    assert np.percentile(errors, 90) > 28


def test_rain_of_all_kinds_has_all_strengths(coffee):
    patch = coffee[:96, :96]
    errors = [
        rms(degradations.add_any_rain(patch, np.random.default_rng(seed)), patch)
        for seed in range(300)
    ]
    assert 0.02 < np.mean(np.equal(errors, 0)) < 0.09
    assert np.percentile(errors, 10) < 22
    assert np.percentile(errors, 90) > 50


def test_haze_lifts_the_darkest_pixels():
    black = np.zeros((96, 96, 3), np.uint8)
    darkest = [
        degradations.add_rain_and_haze(black, np.random.default_rng(seed)).min()
        for seed in range(60)
    ]
    assert sum(value > 3 for value in darkest) > 15
    assert sum(value == 0 for value in darkest) > 15
    assert max(darkest) < 60
