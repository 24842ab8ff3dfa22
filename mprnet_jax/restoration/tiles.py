"""Cuts images into overlapping tiles of one size, and blends tiles into an image again.

Images are [..., height, width, channels]. Sides of images and tiles are multiples of 8 pixels.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mprnet_jax.config import SIZE_MULTIPLE
from mprnet_jax.restoration.sizes import Size, round_up

MIN_SIDE = 128  # shortest side of a tile in pixels; smaller tiles would be mostly overlap


class Axis(NamedTuple):
    """Rows or columns of an image, cut into pieces; neighbours share at least `overlap` pixels."""

    length: int  # pixels of the image
    tile: int  # pixels of a piece
    overlap: int  # pixels

    @property
    def starts(self) -> list[int]:
        """The first pixel of each piece. The last piece ends where the image ends.

        >>> Axis(length=512, tile=256, overlap=32).starts
        [0, 224, 256]
        """
        if self.tile >= self.length:
            return [0]
        last = self.length - self.tile
        return [*range(0, last, self.tile - self.overlap), last]

    @property
    def weights(self) -> list[np.ndarray]:
        """The blending weights of each piece, float32 [tile].

        They rise smoothly from 0 over `overlap` pixels, except at the ends of the image. At each
        pixel the weights of all pieces sum to 1.
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

    def smallest_tiles(self) -> "Axis":
        """Returns the axis with the same number of pieces, each as small as possible."""
        count = len(self.starts)
        tile = math.ceil((self.length + (count - 1) * self.overlap) / count)
        return self._replace(tile=round_up(tile, SIZE_MULTIPLE))


class Grid(NamedTuple):
    """Tiles of one size that cover an image."""

    rows: Axis
    columns: Axis

    @property
    def tile(self) -> Size:
        """Height and width of the tiles."""
        return self.rows.tile, self.columns.tile

    @property
    def places(self) -> list[tuple[slice, slice]]:
        """The slices of rows and columns that each tile covers, row by row."""
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
        """Returns the image that tiles make up; where they overlap, they are blended.

        Args:
            tiles: [..., h, w, C] of the size `tile`, in the order of `places`.

        Returns:
            [..., H, W, C], of the tiles' dtype.
        """
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
    """Returns a grid of square tiles with sides of `tile` pixels, or of the image's if shorter."""
    return Grid(Axis(height, min(tile, height), overlap), Axis(width, min(tile, width), overlap))


def grid_for_area(area: float, height: int, width: int, overlap: int) -> Grid:
    """Returns a grid with few tiles of limited area; with that number they are as small as can be.

    Args:
        area: the most pixels of a tile. It is exceeded if a tile would get sides below `MIN_SIDE`
            that are shorter than the image's.
        height: of the image.
        width: of the image.
        overlap: the fewest pixels that neighbouring tiles share.
    """
    side = math.isqrt(int(area))
    tile_height = round_tile(side if width > side else int(area) // width, height)
    tile_width = round_tile(int(area) // tile_height, width)
    return Grid(
        Axis(height, tile_height, overlap).smallest_tiles(),
        Axis(width, tile_width, overlap).smallest_tiles(),
    )


def round_tile(tile: int, length: int) -> int:
    """Rounds a tile's side down to a multiple of 8, from `MIN_SIDE` to the image's `length`."""
    return min(max(tile // SIZE_MULTIPLE * SIZE_MULTIPLE, MIN_SIDE), length)
