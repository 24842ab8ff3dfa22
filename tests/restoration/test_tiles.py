"""Cutting images into tiles and blending them back."""

import numpy as np
import pytest

from mprnet_jax.restoration import tiles
from mprnet_jax.restoration.tiles import Axis, Grid

SIDES = [
    Axis(8, 8, 0),
    Axis(128, 128, 32),
    Axis(136, 128, 32),
    Axis(800, 128, 32),
    Axis(264, 80, 8),
]


@pytest.mark.parametrize("side", SIDES)
def test_pieces_cover_the_side_and_overlap(side: Axis):
    assert side.starts[0] == 0
    assert side.starts[-1] + side.tile == side.length
    for start, following in zip(side.starts, side.starts[1:]):
        assert start < following <= start + side.tile - side.overlap


@pytest.mark.parametrize("side", SIDES)
def test_weights_add_to_one_and_change_smoothly(side: Axis):
    total = np.zeros(side.length)
    for start, weights in zip(side.starts, side.weights):
        total[start : start + side.tile] += weights
        assert np.abs(np.diff(weights)).max() <= 2 / max(side.overlap, 1)
        if start > 0:
            assert weights[0] < 0.02
    np.testing.assert_allclose(total, 1, atol=1e-6)  # float32


def test_tiles_join_to_the_image_they_were_cut_from():
    image = np.random.default_rng(0).random((2, 200, 312, 3), np.float32)
    grid = Grid(Axis(200, 128, 32), Axis(312, 136, 32))
    np.testing.assert_allclose(grid.join(grid.cut(image)), image, atol=1e-6)  # float32


def test_one_tile_is_the_image_to_the_bit():
    image = np.random.default_rng(0).random((64, 72, 3), np.float32)
    grid = tiles.square(64, 72, 128, 32)
    assert len(grid.places) == 1
    np.testing.assert_array_equal(grid.join(grid.cut(image)), image)


@pytest.mark.parametrize("size", [(1280, 2280), (4000, 136), (136, 4000), (64, 2000), (640, 640)])
@pytest.mark.parametrize("area", [2**15, 2**18, 2**20, 2**24])
def test_tiles_within_an_area(size: tuple[int, int], area: int):
    grid = tiles.grid_for_area(area, *size, 32)
    assert [side % 8 for side in grid.tile] == [0, 0]
    assert np.prod(grid.tile) <= area
    if np.prod(size) <= area:
        assert len(grid.places) == 1
    else:  # no more than twice the tiles that would do without overlap and with any shape
        assert len(grid.places) <= 2 * np.ceil(np.prod(size) / (np.sqrt(area) - 32) ** 2)


def test_tiles_are_never_smaller_than_the_smallest():
    assert tiles.grid_for_area(0, 1280, 64, 32).tile == (128, 64)
