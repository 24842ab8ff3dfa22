"""Chooses the tiles that photos are restored in, by the memory that the devices have.

Sizes are (height, width) in pixels, multiples of 8.
"""

import functools
import math

from jax.sharding import Mesh

from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.restoration import tiles
from mprnet_jax.restoration.costs import Size
from mprnet_jax.restoration.programs import Programs
from mprnet_jax.restoration.tiles import Grid

# Libraries use scratch memory that the compiler does not count: 3 % and 32 MB were measured.
MARGIN = 1.1
SCRATCH_BYTES = 48 * 2**20
HOST_BYTES = 60  # a pixel, for a photo's float32 arrays before and after the network


class Tiling:
    """Chooses a grid of tiles for each size of photo."""

    def __init__(
        self,
        programs: Programs,
        mesh: Mesh,
        *,
        tile: int | str,
        overlap: int,
        memory_limit: int | None,
    ):
        """Makes a tiling; the arguments are those of `Restorer`."""
        self._programs = programs
        self._devices = list(mesh.devices.flat)
        self._tile, self._overlap = tile, overlap
        self._memory_limit = memory_limit
        self._limit = math.inf  # pixels of a tile; lowered where larger ones did not fit
        self._planned: dict[Size, Grid] = {}
        self.choose = functools.lru_cache(maxsize=1024)(self._choose)

    def plan(self, size: Size) -> Grid:
        """Returns the grid that photos of this size are expected to get, and remembers it."""
        self._planned[size] = self._predict(size)
        return self._planned[size]

    def expected(self, size: Size) -> Grid:
        """Returns the planned grid, or else the one expected by the memory that there is now."""
        return self._planned.get(size) or self._predict(size)

    def most_pixels(self, photo: int) -> float:
        """Returns the pixels of the largest tile that is expected to fit.

        Args:
            photo: pixels of the photo that the tile belongs to.
        """
        fitting = self._available_bytes(photo) / (MARGIN * self._programs.costs.bytes_per_pixel)
        return min(fitting, self._limit, self._programs.chooser.most_pixels)

    def shrink(self, grids: list[Grid]) -> bool:
        """Makes tiles smaller after a device ran out of memory with these grids.

        Returns:
            False if tiles have a fixed size, or are as small as possible already.
        """
        pixels = max(math.prod(grid.tile) for grid in grids)
        if self._tile != "auto" or pixels <= tiles.SMALLEST**2:
            return False
        self._limit = min(self._limit, pixels / 2)
        self._planned.clear()
        self.choose.cache_clear()
        return True

    def _choose(self, size: Size) -> Grid:
        """Returns the grid for photos of this size, whose program is compiled and fits.

        Raises:
            UserError: if not even the smallest tile fits into memory.
        """
        grid, may_grow = self.expected(size), True
        while self._tile == "auto":
            available = self._available_bytes(math.prod(size))
            program = self._programs.choose(grid.tile)
            try:
                required = MARGIN * self._programs.program_bytes(program)
            except memory.OutOfMemory:
                required = math.inf
            if required <= available:
                if len(grid.places) == 1 or required > available / 2 or not may_grow:
                    break
                # The guess of bytes per pixel was too high; it is corrected by now.
                may_grow = False
            elif (program.height, program.width) != grid.tile:
                self._programs.chooser.reject(program)
                continue
            elif max(grid.tile) <= tiles.SMALLEST:
                raise UserError(
                    f"a tile of {grid.columns.tile}x{grid.rows.tile} pixels takes "
                    f"{required / 2**30:.2f} GB of memory, but only {available / 2**30:.2f} GB are "
                    "free: close other programs, raise the limit, or use a smaller network"
                )
            else:
                share = min(available / required, 0.9) if required < math.inf else 0.5
                self._limit = share * math.prod(grid.tile)
            grid = self._predict(size)
        return grid

    def _predict(self, size: Size) -> Grid:
        """Returns the grid by the expected memory alone; nothing is compiled."""
        height, width = size
        if self._tile == "auto":
            pixels = min(height * width, self.most_pixels(height * width))
            return tiles.within(pixels, height, width, self._overlap)
        side = int(self._tile) if self._tile != "off" else max(size)
        return tiles.square(height, width, side, self._overlap)

    def _available_bytes(self, photo: int) -> float:
        """Returns the bytes that a program may take on each device beside a photo's own arrays.

        Args:
            photo: pixels of the photo.
        """
        available = memory.available_bytes(self._devices, self._memory_limit) - SCRATCH_BYTES
        if self._devices[0].platform == "cpu":
            available -= HOST_BYTES * photo * self._programs.batch_size // len(self._devices)
        return max(0, available)
