"""Restoring single photos: sizes, types, tiles, memory, and what the network sees."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import nnx

from mprnet_jax import MPRNet
from mprnet_jax.devices import memory
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
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
    fewer = Restorer(model, stages=2).stages_of(image)
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


def test_devices_that_share_rows_compute_what_one_computes(photo, model: MPRNet):
    """With local pooling over bands of rows that are lower than its window."""
    image = photo(392, 16, np.float32)
    shared = Restorer(model, local_pooling=True, mesh=make_mesh(data=1, height=4))
    one = Restorer(model, local_pooling=True)
    np.testing.assert_allclose(shared(image), one(image), atol=1e-5)  # other orders of summing


def test_progress_is_told_after_each_tile(stub, photo):
    told = []
    restorer = Restorer(stub, tile=72, ensemble=True)
    restorer.batch([photo(72, 144)], told.append)
    tiles = 8 * len(restorer.grid_of(photo(72, 144)).places)
    np.testing.assert_allclose(told, np.arange(1, tiles + 1) / tiles)


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


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch):
    """Sets how many bytes the device seems to have."""

    def set_free(size: int) -> None:
        monkeypatch.setattr(memory, "available_host_bytes", lambda: size)

    return set_free


def test_auto_takes_the_largest_tile_that_fits(stub, photo, free_memory):
    restorer = Restorer(stub)
    image = photo(400, 640)
    free_memory(70_000_000)  # of which scratch, the photo and its result take most
    restored = restorer(image)
    grid = restorer.grid_of(image)
    assert 1 < len(grid.places) <= 6
    assert restored.shape == image.shape
    free_memory(200_000_000)
    assert restorer.grid_of(image) == grid  # one decision a size
    assert len(Restorer(stub).grid_of(image).places) == 1


def test_small_photos_do_not_shrink_the_tiles_of_large_ones(stub, photo):
    restorer = Restorer(stub)
    restorer(photo(1, 1))
    assert len(restorer.grid_of(photo(400, 640)).places) == 1


class Refusing:
    """Stands in for accelerators, whose compilers and allocators know their limits."""

    def __init__(self, restorer: Restorer, most_pixels: int):
        self.compiled: list[tuple[int, ...]] = []
        self._most_pixels, self._restore = most_pixels, restorer._programs._restore
        restorer._programs._restore = self

    def lower(self, parameters, images, *sizes):
        self.compiled.append(images.shape)
        if images.shape[1] * images.shape[2] > self._most_pixels:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory in hbm")
        return self._restore.lower(parameters, images, *sizes)


def test_a_program_that_the_compiler_or_the_device_refuses(stub, photo):
    image, restorer = photo(400, 640), Restorer(stub)
    Refusing(restorer, 100_000)
    assert len(restorer.grid_of(image).places) > 1
    assert restorer(image).shape == image.shape
    whole = Restorer(stub, tile="off")
    Refusing(whole, 100_000)
    with pytest.raises(UserError, match=r"memory is too small .* restore 1 x 640x400 pixels in"):
        whole(image)


def test_a_program_that_the_compiler_refuses_is_compiled_once(stub, photo):
    restorer = Restorer(stub, tile="off")
    refusing, depths = Refusing(restorer, 0), set()
    for _ in range(3):
        with pytest.raises(UserError, match="memory is too small") as raised:
            restorer(photo(16, 24))
        depths.add(len(list(traceback.walk_tb(raised.value.__cause__.__traceback__))))
    assert refusing.compiled == [(1, 16, 24, 3)]
    assert len(depths) == 1  # else each photo would be held by the frames of its try


@pytest.mark.parametrize("tile", ["auto", "off"])
def test_sizes_whose_canvas_is_refused_get_their_own_programs(stub, photo, tile):
    restorer = Restorer(stub, tile=tile)
    sizes = [(16, 400), (400, 16), (24, 24)]
    refusing = Refusing(restorer, 100_000)
    assert {p[:2] for p in restorer.plan(sizes).programs.values()} == {(400, 400)}
    for size in sizes:
        expected = Restorer(stub)(photo(*size, np.float32))
        np.testing.assert_allclose(restorer(photo(*size, np.float32)), expected, atol=1e-6)
    areas = [height * width for _, height, width, _ in refusing.compiled]
    assert sum(area > 100_000 for area in areas) == 1


def test_auto_takes_smaller_tiles_where_a_device_has_less_than_it_told(stub, photo, monkeypatch):
    image = photo(400, 640)

    def refuse(program, images, count):
        if program.pixels > 100_000:
            with memory.report_out_of_memory("use smaller tiles"):
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return run(program, images, count)

    for tile in ("auto", "off"):
        restorer = Restorer(stub, tile=tile)
        run = restorer._programs.run
        monkeypatch.setattr(restorer._programs, "run", refuse)
        if tile == "off":
            with pytest.raises(UserError, match="use smaller tiles"):
                restorer(image)
        else:
            assert restorer(image).shape == image.shape
            assert len(restorer.grid_of(image).places) > 1


def test_no_program_is_compiled_that_is_far_too_large(stub, free_memory):
    restorer = Restorer(stub)
    refusing = Refusing(restorer, 10**9)
    free_memory(450_000_000)  # of which the photo's copies take most
    grid = restorer.grid_of(np.broadcast_to(np.uint8(0), (2400, 2400, 3)))
    assert len(grid.places) > 4
    areas = [height * width for _, height, width, _ in refusing.compiled]
    assert len(areas) <= 2
    assert max(areas) < 3 * grid.rows.tile * grid.columns.tile


def test_too_little_memory_for_any_tile_is_an_error(stub, photo, free_memory):
    free_memory(1_000_000)
    with pytest.raises(UserError, match="a tile of 120x128 pixels takes"):
        Restorer(stub)(photo(400, 640))


@pytest.mark.parametrize("tile", [0, -8, 64, 100, 128.0, "128", "none"])
def test_impossible_tiles_are_refused(stub, tile):
    with pytest.raises(UserError, match=f"tile={tile}: must be"):
        Restorer(stub, tile=tile)


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
