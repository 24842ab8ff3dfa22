"""Restoring single photos: sizes, types, tiles, memory, and what the network sees."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import nnx

from mprnet_jax import ModelConfig, MPRNet
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import check_images, pure_functions
from mprnet_jax.model.pooling import local_mean
from mprnet_jax.restoration.restorer import Restorer


@pytest.fixture(scope="module")
def model() -> MPRNet:
    config = ModelConfig(width=4, unet_growth=2, orsnet_growth=2, cabs_per_orb=1)
    graph = nnx.graphdef(nnx.eval_shape(lambda: MPRNet(config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, pure_functions(config)[0](0))


@pytest.fixture(scope="module")
def restorer(model: MPRNet) -> Restorer:
    return Restorer(model)


class Stub(nnx.Module):
    """Stands in for the network where only its calls matter: brightens by half the mean, and more
    to the right; fast to compile.
    """

    def __call__(self, images, stages, pool):
        check_images(images)
        slope = jnp.linspace(0, 0.1, images.shape[2])[:, None]
        return [images + slope + pool(images) / (2 + i) for i in range(stages)]


def photo(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    floats = np.random.default_rng(0).random((height, width, 3))
    if np.issubdtype(dtype, np.integer):
        return (floats * np.iinfo(dtype).max).astype(dtype)
    return floats.astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 16), (17, 8)])
def test_any_size_comes_out_as_it_went_in(size: tuple[int, int]):
    restored = Restorer(Stub())(photo(*size))
    assert restored.shape == (*size, 3)
    assert restored.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_any_type_comes_out_as_it_went_in(dtype):
    assert Restorer(Stub())(photo(8, 8, dtype)).dtype == dtype


def test_a_photo_of_a_multiple_of_eight_goes_through_the_network_as_it_is(model, restorer):
    image = photo(16, 24, np.float32)
    expected = [np.asarray(x[0]) for x in nnx.jit(model)(image[None])]
    stages = restorer.stages_of(image)
    assert len(stages) == 3
    for ours, theirs in zip(stages, expected):
        # compiled with other options
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(restorer(image), stages[0])


def test_fewer_stages_are_the_last_ones_of_all(model: MPRNet, restorer: Restorer):
    image = photo(16, 24, np.float32)
    stages = Restorer(model, stages=2).stages_of(image)
    assert len(stages) == 2
    for ours, theirs in zip(stages, restorer.stages_of(image)[1:]):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # programs compiled apart


def test_other_sizes_are_reflected_to_the_right_and_to_the_bottom():
    image = photo(12, 13, np.float32)
    padded = np.concatenate([image, image[-2:-6:-1]], axis=0)
    padded = np.concatenate([padded, padded[:, -2:-5:-1]], axis=1)
    restorer = Restorer(Stub())
    np.testing.assert_array_equal(restorer(image), restorer(padded)[:12, :13])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_clipped_and_rounded_and_floats_are_not(dtype):
    image, largest, restorer = photo(8, 8, dtype), np.iinfo(dtype).max, Restorer(Stub())
    floats = restorer(image.astype(np.float32) / np.float32(largest))
    assert floats.max() > 1
    expected = np.clip(floats, 0, 1) * largest
    # A value halfway between two integers may go either way.
    assert np.abs(restorer(image) - expected).max() < 0.5 + 1e-5 * largest


def test_photos_of_one_padded_size_make_a_batch():
    restorer = Restorer(Stub(), batch_size=2)
    images = [photo(9, 16), photo(16, 10, np.uint16), photo(16, 16, np.float32)]
    for alone, together in zip(images, restorer.batch(images)):
        assert together.dtype == alone.dtype
        np.testing.assert_array_equal(together, restorer(alone))


def test_photos_of_several_padded_sizes_make_none():
    with pytest.raises(ValueError, match="one padded size"):
        Restorer(Stub()).batch([photo(8, 8), photo(8, 16)])


def test_ensemble_averages_over_the_symmetries_of_the_square():
    image = photo(16, 24, np.float32)
    single, total = Restorer(Stub()), np.zeros_like(image)
    for flipped in (False, True):
        for turns in range(4):
            turned = np.rot90(image[::-1] if flipped else image, turns)
            restored = np.rot90(single(turned), -turns)
            total += restored[::-1] if flipped else restored
    # Both add eight float32 numbers.
    np.testing.assert_allclose(Restorer(Stub(), ensemble=True)(image), total / 8, atol=1e-6)


def test_local_pooling_averages_around_each_pixel():
    image = photo(8, 800, np.float32)
    expected = Stub()(jnp.asarray(image)[None], 1, local_mean(8, 800))[0][0]
    restored = Restorer(Stub(), local_pooling=True)(image)
    np.testing.assert_allclose(restored, expected, atol=1e-6)  # compiled and op by op


def test_a_tile_as_large_as_the_photo_restores_it_whole():
    image, whole = photo(64, 120), Restorer(Stub(), tile="off")
    np.testing.assert_array_equal(Restorer(Stub(), tile=128)(image), whole(image))
    np.testing.assert_array_equal(Restorer(Stub(), tile="auto")(image), whole(image))


def test_tiles_leave_no_seams(model: MPRNet):
    """On a smooth gradient and on a photo, with all that a network does at the borders of tiles."""
    graph, parameters = nnx.split(model)
    weak = nnx.merge(graph, parameters)
    for conv in (weak.sam12.residual, weak.sam23.residual, weak.tail):
        conv.kernel[...] *= (
            0.2  # trained networks change a photo by tenths, not by all of its range
        )
    ramp = np.linspace(0, 1, 160, dtype=np.float32)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.float32(0.5)), axis=-1)
    tiled, whole = Restorer(weak, tile=96), Restorer(weak, tile="off")
    for image in (gradient, skimage.data.chelsea()[60:220, 100:260] / np.float32(255)):
        restored, expected = tiled(image), whole(image)
        assert np.abs(restored - expected).max() > 1 / 255  # the tiles did something else
        for axis in (0, 1):
            steps, allowed = (np.abs(np.diff(x, axis=axis)) for x in (restored, expected))
            borders = [64, 96]  # where the second tile begins and where the first one ends
            assert (steps - allowed).take([b - 1 for b in borders], axis).max() < 1 / 255


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch):
    """Sets how many bytes the device seems to have."""

    def set_free(size: int) -> None:
        monkeypatch.setattr(memory, "host_free", lambda: size)

    return set_free


def test_auto_takes_the_largest_tile_that_fits(free_memory):
    restorer = Restorer(Stub())
    image = photo(400, 640)
    free_memory(20_000_000)  # of which the photo in float32 and its result take three quarters
    restored = restorer(image)
    grid = restorer.grid_of(image)
    assert 1 < len(grid.places) <= 6
    assert restored.shape == image.shape
    free_memory(200_000_000)
    assert restorer.grid_of(image) == grid  # one decision a size
    assert len(Restorer(Stub()).grid_of(image).places) == 1


def test_too_little_memory_for_any_tile_is_an_error(free_memory):
    free_memory(1_000_000)
    with pytest.raises(UserError, match="a tile of 120x128 pixels takes"):
        Restorer(Stub())(photo(400, 640))


@pytest.mark.parametrize("tile", [0, -8, 64, 100, 128.0, "128", "none"])
def test_impossible_tiles_are_refused(tile):
    with pytest.raises(UserError, match=f"tile={tile}: must be"):
        Restorer(Stub(), tile=tile)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros((8, 8, 3), int)]
)
def test_what_is_no_photo_is_refused(image: np.ndarray):
    with pytest.raises(ValueError, match="photo has"):
        Restorer(Stub())(image)
