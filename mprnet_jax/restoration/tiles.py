"""Cuts images into overlapping tiles of one size, and blends tiles back into an image.

Images are [..., height, width, channels]. Sides of images and of tiles are in pixels and multiples
of 8, as the network wants them.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mprnet_jax.config import SIZE_MULTIPLE

SMALLEST = 128  # side of a tile; below it a tile is mostly overlap


class Side(NamedTuple):
    """One side of an image, cut into pieces of which neighbours share at least `overlap` pixels."""

    length: int
    tile: int
    overlap: int

    @property
    def starts(self) -> list[int]:
        """Where the pieces begin; the last one ends with the side.

        >>> Side(length=512, tile=256, overlap=32).starts
        [0, 224, 256]
        """
        if self.tile >= self.length:
            return [0]
        last = self.length - self.tile
        return [*range(0, last, self.tile - self.overlap), last]

    @property
    def weights(self) -> list[np.ndarray]:
        """How much each piece counts at each of its pixels; at every place they add to 1.

        Weights rise smoothly from 0 over `overlap` pixels, but not at the ends of the side.
        """
        ramp = np.clip((np.arange(self.tile) + 0.5) / max(self.overlap, 1), 0, 1)
        rise, flat = ramp**2 * (3 - 2 * ramp), np.ones(self.tile)
        windows, total = [], np.zeros(self.length)
        for start in self.starts:
            end = start + self.tile
            window = (rise if start else flat) * (rise[::-1] if end < self.length else flat)
            windows.append((slice(start, end), window))
            total[start:end] += window
        return [(window / total[place]).astype(np.float32) for place, window in windows]

    def evened(self) -> "Side":
        """The same number of pieces, each as small as that allows."""
        count = len(self.starts)
        tile = math.ceil((self.length + (count - 1) * self.overlap) / count)
        return self._replace(tile=-(-tile // SIZE_MULTIPLE) * SIZE_MULTIPLE)


class Grid(NamedTuple):
    """Tiles that cover an image."""

    rows: Side
    columns: Side

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of each tile."""
        return self.rows.tile, self.columns.tile

    @property
    def places(self) -> list[tuple[slice, slice]]:
        """Rows and columns of each tile, in reading order."""
        height, width = self.tile
        return [
            (slice(y, y + height), slice(x, x + width))
            for y in self.rows.starts
            for x in self.columns.starts
        ]

    def cut(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """The tiles of an image."""
        return (image[..., rows, columns, :] for rows, columns in self.places)

    def join(self, tiles: Iterable[np.ndarray]) -> np.ndarray:
        """Puts tiles back in their places; where they overlap, one fades into the other."""
        image = None
        weights = itertools.product(self.rows.weights, self.columns.weights)
        for (rows, columns), (down, across), tile in zip(self.places, weights, tiles, strict=True):
            if image is None:
                shape = (*tile.shape[:-3], self.rows.length, self.columns.length, tile.shape[-1])
                image = np.zeros(shape, tile.dtype)
            image[..., rows, columns, :] += down[:, None, None] * across[:, None] * tile
        return image


def square(height: int, width: int, tile: int, overlap: int) -> Grid:
    """Tiles of a given size, clipped to the image's sides."""
    return Grid(Side(height, min(tile, height), overlap), Side(width, min(tile, width), overlap))


def within(area: float, height: int, width: int, overlap: int) -> Grid:
    """As few tiles as cover the image with at most `area` pixels each, though of at least
    `SMALLEST` a side, and all as small as that number of tiles allows.
    """
    side = math.isqrt(int(area))
    tile_height = side if width > side else int(area) // width
    tile_height = fitting(tile_height, height)
    tile_width = fitting(int(area) // tile_height, width)
    return Grid(
        Side(height, tile_height, overlap).evened(), Side(width, tile_width, overlap).evened()
    )


def fitting(tile: int, length: int) -> int:
    """The side of a tile as a multiple of 8, neither too small nor longer than the image's."""
    return min(max(tile // SIZE_MULTIPLE * SIZE_MULTIPLE, SMALLEST), length)
