import numpy as np
import pytest

from mprnet_jax.data import camera, sample
from mprnet_jax.data.augment import LUMA
from mprnet_jax.data.camera import Camera, draw_camera, photograph


@pytest.fixture(scope="module")
def coffee():
    return sample.photo("coffee.png")[:300, :300]


def plain_camera(shot=0.0, read=0.0, quality=100):
    """A camera whose colours are sRGB's own."""
    return Camera(np.eye(3, dtype=np.float32), np.ones(3, np.float32), shot, read, quality)


def rms(a, b):
    return np.sqrt(np.mean((a.astype(float) - b) ** 2))


def test_developing_undoes_the_way_to_the_sensor(coffee):
    drawn = draw_camera(np.random.default_rng(0))
    # Half a level: both ways are computed in float32, and rounded once.
    assert (
        np.abs(camera.develop(camera.to_sensor(coffee, drawn), drawn) - coffee.astype(int)).max()
        <= 1
    )


def test_demosaicing_keeps_what_the_mosaic_has_and_is_exact_for_ramps():
    y, x = np.mgrid[:40, :48].astype(np.float32)
    image = np.stack([2 * x + y, 3 * y - x + 60, x + y + 5], axis=-1)
    mosaic = camera.to_mosaic(image)
    filled = camera.demosaic(mosaic)
    np.testing.assert_array_equal(camera.to_mosaic(filled), mosaic)
    # Only away from the borders, where the ramp is reflected. Float32 rounds at 1e-5 of 200.
    colours_alike = np.repeat(image[..., :1], 3, axis=2)
    ramp = camera.demosaic(camera.to_mosaic(colours_alike))
    np.testing.assert_allclose(ramp[4:-4, 4:-4], colours_alike[4:-4, 4:-4], atol=1e-3)


def test_a_white_wall_stays_white():
    wall = np.full((64, 64, 3), 200, np.uint8)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        drawn = draw_camera(rng, shot=1e-7)
        # One level, for JPEG rounds; the noise is far below that.
        assert np.abs(photograph(wall, drawn, rng).astype(int) - 200).max() <= 1


@pytest.mark.parametrize("level", [60, 128])
def test_noise_has_the_variance_of_shot_and_read(level):
    grey = np.full((400, 400, 3), level, np.uint8)
    taken = plain_camera(shot=0.002, read=0.0001)
    rng = np.random.default_rng(0)
    signal = camera.to_mosaic(camera.to_sensor(grey, taken))
    noise = np.sqrt(taken.shot * signal + taken.read) * rng.standard_normal(signal.shape)
    expected = camera.develop(camera.demosaic((signal + noise).astype(np.float32)), taken)
    result = photograph(grey, taken, np.random.default_rng(1))
    # Of luma, for JPEG halves the resolution of colour. 3 %: 160,000 values, not independent.
    assert (result @ LUMA).std() == pytest.approx((expected @ LUMA).std(), rel=0.03)
    assert result.mean() == pytest.approx(level, abs=1.5)  # the tone curve bends the mean a little


def test_noise_of_neighbours_is_alike_as_demosaicing_makes_it():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = photograph(grey, plain_camera(shot=0.01, read=1e-4), np.random.default_rng(0)) - 128.0
    red = noise[..., 0]
    neighbours = np.mean(red[:, 1:] * red[:, :-1]) / red.var()
    assert neighbours > 0.15  # 0 for independent noise
    independent = np.random.default_rng(0).normal(size=red.shape)
    assert abs(np.mean(independent[:, 1:] * independent[:, :-1])) < 0.02


def test_more_shot_noise_is_worse_and_cameras_differ(coffee):
    errors = [
        rms(
            photograph(
                coffee, draw_camera(np.random.default_rng(0), shot), np.random.default_rng(1)
            ),
            coffee,
        )
        for shot in (0.0005, 0.003, 0.012)
    ]
    assert errors[0] < errors[1] < errors[2]
    drawn = [draw_camera(np.random.default_rng(seed)) for seed in range(200)]
    shots = np.array([c.shot for c in drawn])
    assert 1e-4 <= shots.min() < 2e-4
    assert 6e-3 < shots.max() <= 0.012
    assert len({c.quality for c in drawn}) > 20
    for c in drawn:
        np.testing.assert_allclose(c.matrix.sum(1), 1, atol=1e-6)  # float32
