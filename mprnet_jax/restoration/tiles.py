"""Cuts images into overlapping tiles of one size, and blends tiles back into an image.

Images are [..., height, width, channels]. Sides of images and of tiles are multiples of 8 pixels.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mprnet_jax.config import SIZE_MULTIPLE

SMALLEST = 128  # side of a tile in pixels; smaller tiles would be mostly overlap


class Side(NamedTuple):
    """One side of an image, covered by pieces of which neighbours overlap by `overlap` or more."""

    length: int  # of the image, in pixels
    tile: int  # length of a piece
    overlap: int

    @property
    def starts(self) -> list[int]:
        """The first pixel of each piece; the last piece ends where the image does.

        >>> Side(length=512, tile=256, overlap=32).starts
        [0, 224, 256]
        """
        if self.tile >= self.length:
            return [0]
        last = self.length - self.tile
        return [*range(0, last, self.tile - self.overlap), last]

    @property
    def weights(self) -> list[np.ndarray]:
        """The blending weights of each piece, float32 [tile]; at every pixel they sum to 1.

        They rise smoothly from 0 over `overlap` pixels, except at the ends of the image.
        """
        ramp = np.clip((np.arange(self.tile) + 0.5) / max(self.overlap, 1), 0, 1)
        rise, flat = ramp**2 * (3 - 2 * ramp), np.ones(self.tile)
        windows, total = [], np.zeros(self.length)
        for start in self.starts:
            end = start + self.tile
            window = (rise if start else flat) * (rise[::-1] if end < self.length else flat)
            windows.append((slice(start, end), window))
            total[start:end] += window
        return [(window / total[piece]).astype(np.float32) for piece, window in windows]

    def smallest_tiles(self) -> "Side":
        """Returns the side with as many pieces, each as small as possible."""
        count = len(self.starts)
        tile = math.ceil((self.length + (count - 1) * self.overlap) / count)
        return self._replace(tile=-(-tile // SIZE_MULTIPLE) * SIZE_MULTIPLE)


class Grid(NamedTuple):
    """Tiles of one size that cover an image."""

    rows: Side
    columns: Side

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the tiles."""
        return self.rows.tile, self.columns.tile

    @property
    def places(self) -> list[tuple[slice, slice]]:
        """The slices of rows and of columns of each tile, row by row."""
        height, width = self.tile
        return [
            (slice(y, y + height), slice(x, x + width))
            for y in self.rows.starts
            for x in self.columns.starts
        ]

    def cut(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the tiles of an image [..., H, W, C], in the order of `places`."""
        for rows, columns in self.places:
            yield image[..., rows, columns, :]

    def join(self, tiles: Iterable[np.ndarray]) -> np.ndarray:
        """Returns the image of some tiles, given in the order of `places`; overlaps are blended."""
        image: np.ndarray | None = None
        weights = itertools.product(self.rows.weights, self.columns.weights)
        for (rows, columns), (down, across), tile in zip(self.places, weights, tiles, strict=True):
            if image is None:
                shape = (*tile.shape[:-3], self.rows.length, self.columns.length, tile.shape[-1])
                image = np.zeros(shape, tile.dtype)
            image[..., rows, columns, :] += down[:, None, None] * across[:, None] * tile
        assert image is not None  # a grid has a tile
        return image


def square(height: int, width: int, tile: int, overlap: int) -> Grid:
    """Returns square tiles of a given side, or less where the image's side is shorter."""
    return Grid(Side(height, min(tile, height), overlap), Side(width, min(tile, width), overlap))


def within(area: float, height: int, width: int, overlap: int) -> Grid:
    """Returns as few tiles of at most `area` pixels as cover an image, then as small as possible.

    Their sides are at least `SMALLEST`, or the image's if that is shorter.
    """
    side = math.isqrt(int(area))
    tile_height = round_tile(side if width > side else int(area) // width, height)
    tile_width = round_tile(int(area) // tile_height, width)
    return Grid(
        Side(height, tile_height, overlap).smallest_tiles(),
        Side(width, tile_width, overlap).smallest_tiles(),
    )


def round_tile(tile: int, length: int) -> int:
    """Rounds a tile's side down to a multiple of 8, from `SMALLEST` to the image's `length`."""
    return min(max(tile // SIZE_MULTIPLE * SIZE_MULTIPLE, SMALLEST), length)
