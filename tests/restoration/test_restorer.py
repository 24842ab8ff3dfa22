"""Restoring single photos: sizes, types and what the network sees."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mprnet_jax import ModelConfig, MPRNet
from mprnet_jax.restoration.restorer import Restorer


@pytest.fixture(scope="module")
def model() -> MPRNet:
    config = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)
    return MPRNet(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def restorer(model: MPRNet) -> Restorer:
    return Restorer(model)


def photo(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    floats = np.random.default_rng(0).random((height, width, 3))
    if np.issubdtype(dtype, np.integer):
        return (floats * np.iinfo(dtype).max).astype(dtype)
    return floats.astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 16), (17, 8)])
def test_any_size_comes_out_as_it_went_in(restorer: Restorer, size: tuple[int, int]):
    restored = restorer(photo(*size))
    assert restored.shape == (*size, 3)
    assert restored.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_any_type_comes_out_as_it_went_in(restorer: Restorer, dtype):
    assert restorer(photo(8, 8, dtype)).dtype == dtype


def test_a_photo_of_a_multiple_of_eight_goes_through_the_network_as_it_is(model, restorer):
    image = photo(16, 24, np.float32)
    expected = [np.asarray(x[0]) for x in model(jnp.asarray(image)[None])]
    for ours, theirs in zip(restorer.stages_of(image), expected):
        # Compiled and op by op, sums run in another order.
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_other_sizes_are_reflected_to_the_right_and_to_the_bottom(restorer: Restorer):
    image = photo(12, 13, np.float32)
    padded = np.concatenate([image, image[-2:-6:-1]], axis=0)
    padded = np.concatenate([padded, padded[:, -2:-5:-1]], axis=1)
    np.testing.assert_array_equal(restorer(image), restorer(padded)[:12, :13])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_clipped_and_rounded_and_floats_are_not(restorer: Restorer, dtype):
    image, largest = photo(8, 8, dtype), np.iinfo(dtype).max
    floats = restorer(image.astype(np.float32) / np.float32(largest))
    assert floats.min() < 0 or floats.max() > 1
    expected = np.clip(floats, 0, 1) * largest
    # A value halfway between two integers may go either way.
    assert np.abs(restorer(image) - expected).max() < 0.5 + 1e-5 * largest


def test_fewer_stages_are_the_last_ones_of_all(model: MPRNet, restorer: Restorer):
    image = photo(16, 16, np.float32)
    stages = Restorer(model, stages=2).stages_of(image)
    assert len(stages) == 2
    for ours, theirs in zip(stages, restorer.stages_of(image)[1:]):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # programs compiled apart


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros((8, 8, 3), int)]
)
def test_what_is_no_photo_is_refused(restorer: Restorer, image: np.ndarray):
    with pytest.raises(ValueError, match="photo has"):
        restorer(image)
