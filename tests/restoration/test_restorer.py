"""Restoring photos: sizes, types, tiles, devices, and what the network sees."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import nnx

from mprnet_jax import MPRNet
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.model.pooling import local_mean
from mprnet_jax.restoration.restorer import Restorer


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 16), (17, 8)])
def test_any_size_comes_out_as_it_went_in(stub, photo, size: tuple[int, int]):
    restored = Restorer(stub)(photo(*size))
    assert restored.shape == (*size, 3)
    assert restored.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_any_type_comes_out_as_it_went_in(stub, photo, dtype):
    assert Restorer(stub)(photo(8, 8, dtype)).dtype == dtype


def test_a_photo_of_a_multiple_of_eight_goes_through_the_network_as_it_is(photo, model):
    image = photo(16, 24, np.float32)
    expected = [np.asarray(x[0]) for x in nnx.jit(model)(image[None])]
    restorer = Restorer(model)
    stages = restorer.stages_of(image)
    np.testing.assert_array_equal(restorer(image), stages[0])
    fewer = Restorer(model, stages=1).stages_of(image)
    for ours, theirs in ((stages, expected), (fewer, expected[1:])):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            np.testing.assert_allclose(one, other, atol=1e-5)  # three programs


def test_other_sizes_are_reflected_to_the_right_and_to_the_bottom(stub, photo):
    image = photo(12, 13, np.float32)
    padded = np.concatenate([image, image[-2:-6:-1]], axis=0)
    padded = np.concatenate([padded, padded[:, -2:-5:-1]], axis=1)
    restorer = Restorer(stub)
    np.testing.assert_array_equal(restorer(image), restorer(padded)[:12, :13])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_clipped_and_rounded_and_floats_are_not(stub, photo, dtype):
    image, largest, restorer = photo(8, 8, dtype), np.iinfo(dtype).max, Restorer(stub)
    floats = restorer(image.astype(np.float32) / np.float32(largest))
    assert floats.max() > 1
    expected = np.clip(floats, 0, 1) * largest
    # A value halfway between two integers may go either way.
    assert np.abs(restorer(image) - expected).max() < 0.5 + 1e-5 * largest


def test_what_is_not_finite_is_not_taken_for_black(stub, photo, monkeypatch):
    def broken(_, images, stages, *__):
        return [images * jnp.nan] * stages

    monkeypatch.setattr(type(stub), "__call__", broken)
    restorer = Restorer(stub)
    with pytest.raises(UserError, match="is not finite"):
        restorer(photo(8, 8))
    assert np.isnan(restorer(photo(8, 8, np.float32))).all()


def test_photos_of_one_padded_size_make_a_batch(stub, photo):
    restorer = Restorer(stub, batch_size=2)
    images = [photo(9, 16), photo(16, 10, np.uint16), photo(16, 16, np.float32)]
    for alone, together in zip(images, restorer.batch(images)):
        assert together.dtype == alone.dtype
        np.testing.assert_array_equal(together, restorer(alone))


def test_photos_of_several_sizes_make_a_batch(stub, photo):
    images = [photo(8, 8, np.float32), photo(20, 16, np.float32), photo(8, 16, np.float32)]
    restorer = Restorer(stub, batch_size=2)
    restorer.plan([image.shape[:2] for image in images])
    for together, image in zip(restorer.batch(images), images):
        # A canvas's program sums in another order.
        np.testing.assert_allclose(together, Restorer(stub)(image), atol=1e-6)


def test_ensemble_averages_over_the_symmetries_of_the_square(stub, photo):
    image = photo(16, 24, np.float32)
    single, total = Restorer(stub), np.zeros_like(image)
    for flipped in (False, True):
        for turns in range(4):
            turned = np.rot90(image[::-1] if flipped else image, turns)
            restored = np.rot90(single(turned), -turns)
            total += restored[::-1] if flipped else restored
    # Both add eight float32 numbers.
    np.testing.assert_allclose(Restorer(stub, ensemble=True)(image), total / 8, atol=1e-6)


def test_local_pooling_averages_around_each_pixel(stub, photo):
    image = photo(8, 800, np.float32)
    expected = stub(jnp.asarray(image)[None], 1, local_mean)[0][0]
    restored = Restorer(stub, local_pooling=True)(image)
    np.testing.assert_allclose(restored, expected, atol=1e-6)  # compiled and op by op


def test_a_tile_as_large_as_the_photo_restores_it_whole(stub, photo):
    image, whole = photo(64, 120), Restorer(stub, tile="off")
    np.testing.assert_array_equal(Restorer(stub, tile=128)(image), whole(image))
    np.testing.assert_array_equal(Restorer(stub, tile="auto")(image), whole(image))


def test_tiles_leave_no_seams(tiny_model):
    """On a smooth gradient and on a photo, with all that a network does at the borders of tiles."""
    weak = with_params(tiny_model, pure_functions(tiny_model)[0](0))
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


def test_devices_that_share_rows_compute_what_one_computes(photo, model: MPRNet):
    """With local pooling over bands of rows that are lower than its window."""
    image = photo(392, 16, np.float32)
    shared = Restorer(model, local_pooling=True, mesh=make_mesh(data=1, height=4))
    one = Restorer(model, local_pooling=True)
    np.testing.assert_allclose(shared(image), one(image), atol=1e-5)  # other orders of summing


def test_progress_is_reported_after_each_tile(stub, photo):
    shares = []
    restorer = Restorer(stub, tile=72, ensemble=True)
    restorer.batch([photo(72, 144)], shares.append)
    tiles = 8 * len(restorer.grid_of(photo(72, 144)).places)
    np.testing.assert_allclose(shares, np.arange(1, tiles + 1) / tiles)


def test_tiles_spread_over_devices(stub, photo):
    image = photo(200, 300)
    spread = Restorer(stub, tile=128, mesh=make_mesh(data=2, height=2))
    assert len(spread.grid_of(image).places) % 2 == 0
    one = Restorer(stub, tile=128)(image)
    # Rounding may go either way.
    assert np.abs(spread(image).astype(int) - one).max() <= 1


def test_rows_are_shared_by_a_divisor_of_eight(stub):
    with pytest.raises(UserError, match="rows over 3 devices: use 1, 2, 4 or 8"):
        Restorer(stub, mesh=make_mesh(data=1, height=3))


@pytest.mark.parametrize("tile", [0, -8, 64, 100, 128.0, "128", "none"])
def test_impossible_tiles_are_refused(stub, tile):
    with pytest.raises(UserError, match=f"tile={tile}: must be"):
        Restorer(stub, tile=tile)


@pytest.mark.parametrize("tile", [128, "off"])
def test_a_negative_overlap_is_refused_for_tiles_of_any_kind(stub, tile):
    with pytest.raises(UserError, match="overlap=-1: must be"):
        Restorer(stub, tile=tile, overlap=-1)


@pytest.mark.parametrize(
    "options", [{"stages": 0}, {"stages": 4}, {"batch_size": 0}, {"batch_size": 1.5}], ids=str
)
def test_impossible_numbers_of_stages_and_photos_are_refused(stub, options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name}=.*: must be"):
        Restorer(stub, **options)


@pytest.mark.parametrize("overlap", [-1, 64, 128])
def test_tiles_that_are_mostly_overlap_are_refused(stub, overlap):
    with pytest.raises(UserError, match=f"overlap={overlap}: must be"):
        Restorer(stub, overlap=overlap)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros((8, 8, 3), int)]
)
def test_what_is_no_photo_is_refused(stub, image: np.ndarray):
    with pytest.raises(ValueError, match="photo has"):
        Restorer(stub)(image)
