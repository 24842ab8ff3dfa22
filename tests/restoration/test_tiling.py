"""Tiles that fit into memory: by what is free, and by what devices refuse."""

import traceback

import jax
import numpy as np
import pytest

from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.restoration.restorer import Restorer


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
        self._most_pixels, self._restore = most_pixels, restorer._programs.engine._restore
        restorer._programs.engine._restore = self

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


def test_auto_takes_smaller_tiles_where_a_device_has_less_than_reported(stub, photo, monkeypatch):
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


def test_a_compiler_that_refuses_even_the_smallest_tile_gives_no_amount(stub, photo):
    restorer = Restorer(stub)
    Refusing(restorer, 0)
    with pytest.raises(memory.OutOfMemory, match="a tile of 120x128 pixels takes too much memory"):
        restorer(photo(400, 640))
