import numpy as np
import pytest

from mprnet_jax.data import sample


def rms(a, b):
    return np.sqrt(np.mean((a.astype(float) - b) ** 2))


@pytest.fixture(scope="module")
def coffee():
    return sample.photo("coffee.png")


def test_photos_are_colour_and_held_out_ones_are_others():
    for source in (sample.Photos(sample.TRAINING_PHOTOS), sample.Photos(sample.HELD_OUT_PHOTOS)):
        for i in range(len(source)):
            image = source[i]["target"]
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            assert min(image.shape[:2]) >= 296  # the sample's validation crop
            assert (image[..., 0] != image[..., 2]).any()
    assert not set(sample.TRAINING_PHOTOS) & set(sample.HELD_OUT_PHOTOS)


def test_rain_brightens_and_varies(coffee):
    rained = [sample.add_rain(coffee, np.random.default_rng(seed)) for seed in range(8)]
    strengths = [rms(image, coffee) for image in rained]
    assert all((image >= coffee.astype(int) - 1).all() for image in rained)  # 1: rounding
    assert max(strengths) > 2 * min(strengths) > 2
    assert len({round(s, 3) for s in strengths}) == 8


def test_rain_follows_its_generator(coffee):
    first, again = (sample.add_rain(coffee, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_streaks_have_their_length_and_angle(angle):
    kernel = sample.streak(length=20, angle=angle, width=0.8)
    y, x = np.nonzero(kernel > 0.5)
    along = y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    # Half maximum lies 1.18 widths beyond each end; the grid takes up to one pixel there.
    assert np.ptp(along) == pytest.approx(20 + 2 * 1.18 * 0.8, abs=2)
    assert np.ptp(across) < 3


def test_held_out_pairs_are_the_same_each_time():
    once = sample.DegradedPhotos(sample.HELD_OUT_PHOTOS, sample.add_rain)
    again = sample.DegradedPhotos(sample.HELD_OUT_PHOTOS, sample.add_rain)
    assert once.names == ["astronaut", "chelsea"]
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first["degraded"], second["degraded"])
        assert rms(first["degraded"], first["target"]) > 10
