"""Chooses the tiles that photos are restored in, according to the memory of the devices.

Sizes are (height, width) in pixels, multiples of 8.
"""

import math

from mprnet_jax.devices import memory
from mprnet_jax.restoration import tiles
from mprnet_jax.restoration.programs import Programs
from mprnet_jax.restoration.sizes import Size
from mprnet_jax.restoration.tiles import Grid

# Libraries use scratch memory that the compiler does not count. Measured were 3 % and 32 MiB; these
# leave a reserve.
MEMORY_MARGIN = 1.1
SCRATCH_BYTES = 48 * 2**20
# For the float32 arrays of a photo before and after the network.
HOST_BYTES_PER_PIXEL = 60


class Tiling:
    """Chooses a grid of tiles for each size of photo.

    `plan`, `expected` and `max_tile_pixels` go by expected costs and compile nothing. With
    `tile="auto"`, `choose` compiles the program of its tiles to find out whether it fits.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        tile: int | str,
        overlap: int,
        memory_limit: int | None,
    ):
        """Makes a tiling; the arguments are those of `Restorer`."""
        self._programs = programs
        self._tile, self._overlap = tile, overlap
        self._memory_limit = memory_limit
        self._max_pixels = math.inf  # of a tile; lowered when a tile did not fit
        self._planned: dict[Size, Grid] = {}
        self._chosen: dict[Size, Grid] = {}

    def plan(self, size: Size) -> Grid:
        """Returns the grid that photos of this size are expected to get, and stores it."""
        self._planned[size] = self._predict(size)
        return self._planned[size]

    def expected(self, size: Size) -> Grid:
        """Returns the planned grid or, without one, the grid that the free memory allows now."""
        return self._planned.get(size) or self._predict(size)

    def max_tile_pixels(self, photo_pixels: int) -> float:
        """Returns the pixels of the largest tile that is expected to fit.

        Args:
            photo_pixels: pixels of the photo that the tile belongs to.
        """
        bytes_per_pixel = MEMORY_MARGIN * self._programs.costs.bytes_per_pixel
        fitting = self._available_bytes(photo_pixels) / bytes_per_pixel
        return min(fitting, self._max_pixels, self._programs.chooser.max_program_pixels)

    def shrink(self, grids: list[Grid]) -> bool:
        """Makes tiles smaller after a device ran out of memory with these grids.

        Returns:
            Whether they are smaller now. They are not if their size is fixed or minimal.
        """
        pixels = max(math.prod(grid.tile) for grid in grids)
        if self._tile != "auto" or pixels <= tiles.MIN_SIDE**2:
            return False
        self._max_pixels = min(self._max_pixels, pixels / 2)
        self._planned.clear()
        self._chosen.clear()
        return True

    def choose(self, size: Size) -> Grid:
        """Returns the grid for photos of this size.

        With `tile="auto"`, compiles programs until one fits into memory.

        Raises:
            OutOfMemory: if not even the smallest tile fits into memory.
        """
        if size not in self._chosen:
            self._chosen[size] = self._choose(size)
        return self._chosen[size]

    def _choose(self, size: Size) -> Grid:
        grid, may_grow = self.expected(size), True
        while self._tile == "auto":
            available = self._available_bytes(math.prod(size))
            program = self._programs.choose(grid.tile)
            try:
                required = MEMORY_MARGIN * self._programs.program_bytes(program)
            except memory.OutOfMemory:
                required = math.inf
            if required <= available:
                if len(grid.places) == 1 or required > available / 2 or not may_grow:
                    break
                # The expected bytes per pixel were too high; compiling has corrected them.
                may_grow = False
            elif (program.height, program.width) != grid.tile:
                self._programs.chooser.reject(program)
                continue
            elif max(grid.tile) <= tiles.MIN_SIDE:
                tile = f"{grid.columns.tile}x{grid.rows.tile}"
                amount = f"{required / 2**30:.2f} GiB of" if required < math.inf else "too much"
                raise memory.OutOfMemory(
                    f"a tile of {tile} pixels takes {amount} memory, and "
                    f"{available / 2**30:.2f} GiB are free: close other programs, raise the limit, "
                    "or use a smaller network"
                )
            else:
                share = min(available / required, 0.9) if required < math.inf else 0.5
                self._max_pixels = share * math.prod(grid.tile)
            grid = self._predict(size)
        return grid

    def _predict(self, size: Size) -> Grid:
        """Returns the grid according to the expected memory; compiles nothing."""
        height, width = size
        if self._tile == "auto":
            pixels = min(height * width, self.max_tile_pixels(height * width))
            return tiles.grid_for_area(pixels, height, width, self._overlap)
        side = int(self._tile) if self._tile != "off" else max(size)
        return tiles.square(height, width, side, self._overlap)

    def _available_bytes(self, photo_pixels: int) -> float:
        """Returns the bytes that a program may take on each device, beside the photo's arrays.

        Args:
            photo_pixels: pixels of the photo.
        """
        engine = self._programs.engine
        available = engine.available_bytes(self._memory_limit) - SCRATCH_BYTES
        if engine.cpu_devices:
            photo_bytes = HOST_BYTES_PER_PIXEL * photo_pixels * self._programs.batch_size
            available -= photo_bytes // engine.cpu_devices
        return max(0, available)
