"""Restores photos of any size with a trained network.

Photos are [H, W, 3]: uint8, uint16, or floats in [0, 1]. What goes in comes out: the same size and
type, integers clipped and rounded, floats neither.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from mprnet_jax.config import SIZE_MULTIPLE
from mprnet_jax.devices import memory
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.restoration import tiles
from mprnet_jax.restoration.planning import Plan, Program, Size
from mprnet_jax.restoration.programs import CanvasTooLarge, Programs
from mprnet_jax.restoration.tiles import Grid
from mprnet_jax.symmetries import apply_symmetry, invert_symmetry

# What a program takes beyond the compiler's account, in libraries' scratch space: measured were 3 %
# and 32 MB.
MARGIN = 1.1
SCRATCH_BYTES = 48 * 2**20
# The order in which images are summed, on which the last bits of their mean depend.
ENSEMBLE = (0, 1, 2, 3, 4, 7, 6, 5)
HOST_BYTES = 60  # a pixel, for the photo's copies in float32 on the way in and out

Progress = Callable[[float], object]  # is told the share of the work that is done, in (0, 1]


def ignore(share: float) -> None:
    """A `Progress` that nobody watches."""


class Restorer:
    """Restores photos: `Restorer(mprnet_jax.load("derain.safetensors"))(photo)`."""

    def __init__(
        self,
        model: MPRNet,
        *,
        tile: int | str = "auto",
        overlap: int = 32,
        local_pooling: bool = False,
        ensemble: bool = False,
        stages: int = 3,
        batch_size: int = 1,
        mesh: Mesh | None = None,
        memory_limit: int | None = None,
        precision: str | None = None,
    ):
        """Makes a restorer, which compiles programs for the sizes of photos that it meets.

        Args:
            model: the trained network.
            tile: side in pixels of the tiles that photos are restored in; "off" restores them
                whole; "auto" too where memory allows, else in the largest tiles that fit.
            overlap: pixels over which neighbouring tiles fade into each other.
            local_pooling: whether channel attention averages around each pixel, as for the patches
                of training, instead of over the whole photo (TLC).
            ensemble: whether to average over the 8 symmetries of the square; 8 times slower.
            stages: how many of the network's stages to compute, 1, 2 or 3; fewer are faster.
            batch_size: how many photos or tiles each device along "data" restores at once.
            mesh: the devices; tiles and photos spread over its axis "data", the rows of each over
                "height". By default one device.
            memory_limit: bytes that "auto" may let a device use, if less than there are.
            precision: of products of float32, as of `jax.default_matmul_precision`; "highest" makes
                TPUs and GPUs compute with all digits.

        Raises:
            UserError: if tiles have an impossible size or rows cannot be spread over the mesh.
        """
        self._mesh = mesh or make_mesh(data=1)
        check_tile(tile, overlap)
        if SIZE_MULTIPLE % self._mesh.shape["height"]:
            raise UserError(
                f"cannot spread rows over {self._mesh.shape['height']} devices: use 1, 2, 4 or 8"
            )
        self.stages = stages
        self._tile, self._overlap = tile, overlap
        self._symmetries = ENSEMBLE if ensemble else (0,)
        self.batch_size = batch_size * self._mesh.shape["data"]  # of all devices together
        self._memory_limit = memory_limit
        self._programs = Programs(
            model,
            self._mesh,
            batch_size=self.batch_size,
            stages=stages,
            local_pooling=local_pooling,
            precision=precision,
        )
        self._largest = math.inf  # pixels of a tile, as far as memory has turned out to reach
        self._planned: dict[Size, Grid] = {}  # by padded size
        self._grid = functools.lru_cache(maxsize=1024)(self._choose_grid)

    def plan(self, sizes: Mapping[Size, int] | Iterable[Size]) -> Plan:
        """Prepares for photos of these sizes, (height, width): they will share programs.

        A mapping says how many photos there are of each size.
        """
        counts, largest = Counter(), 0
        for size, count in Counter(sizes).items():
            turned = [size, size[::-1]] if len(self._symmetries) > 1 else [size]
            for each in turned:
                padded = padded_size(*each)
                grid = self._planned[padded] = self._expected_grid(*padded)
                counts[grid.tile] += count * len(grid.places) * len(self._symmetries) // len(turned)
                largest = max(largest, math.prod(padded))
        return self._programs.plan(counts, self._most_pixels(largest))

    def program_for(self, size: Size) -> Program:
        """The program that photos of a size, (height, width), are expected to be restored by."""
        padded = padded_size(*size)
        grid = self._planned.get(padded) or self._expected_grid(*padded)
        return self._programs.choose(grid.tile)

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Restores one photo [H, W, 3], whose sides may be of any length from 1 up."""
        return self.batch([photo])[0]

    def batch(self, photos: Sequence[np.ndarray], progress: Progress = ignore) -> list[np.ndarray]:
        """Restores photos; those that share a program are computed together."""
        return [stages[0] for stages in self._restore_photos(photos, 1, progress)]

    def stages_of(self, photo: np.ndarray) -> list[np.ndarray]:
        """The images that all computed stages make of one photo [H, W, 3], the last stage first."""
        return list(self._restore_photos([photo], self.stages)[0])

    def grid_of(self, photo: np.ndarray) -> Grid:
        """The tiles in which a photo is, or would be, restored."""
        return self._grid(*padded_size(*photo.shape[:2]))

    def _restore_photos(
        self, photos: Sequence[np.ndarray], count: int, progress: Progress = ignore
    ) -> list[np.ndarray]:
        """The images [count, H, W, 3] that the last `count` stages make of each photo."""
        for photo in photos:
            check_photo(photo)
        images = [to_floats(photo) for photo in photos]
        sums = [0.0] * len(images)
        for done, symmetry in enumerate(self._symmetries):
            turned = [apply_symmetry(image, symmetry) for image in images]

            def part(share: float, done: int = done) -> None:
                progress((done + share) / len(self._symmetries))

            restored = self._restore_images(turned, count, part)
            sums = [
                total + invert_symmetry(image, symmetry) for total, image in zip(sums, restored)
            ]
        means = [total / len(self._symmetries) for total in sums]
        return [from_floats(mean, photo.dtype) for mean, photo in zip(means, photos)]

    def _restore_images(
        self, images: list[np.ndarray], count: int, progress: Progress
    ) -> list[np.ndarray]:
        padded = [pad(image) for image in images]
        while True:
            grids = [self._grid(*image.shape[:2]) for image in padded]
            parts = (part for image, grid in zip(padded, grids) for part in grid.cut(image))
            restored = self._restore_tiles(parts, count)
            restored = told(restored, sum(len(grid.places) for grid in grids), progress)
            try:
                joined = [g.join(itertools.islice(restored, len(g.places))) for g in grids]
                break
            except CanvasTooLarge:
                continue
            except memory.OutOfMemory:
                area = max(grid.rows.tile * grid.columns.tile for grid in grids)
                if self._tile != "auto" or area <= tiles.SMALLEST**2:
                    raise
            # Others use the device too, and it has less than it told.
            self._largest = min(self._largest, area / 2)
            self._planned.clear()
            self._grid.cache_clear()
        return [j[:, : i.shape[0], : i.shape[1]] for j, i in zip(joined, images)]

    def _restore_tiles(self, images: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
        """The images [count, h, w, 3] made of each tile, batch after batch."""

        def program(image: np.ndarray) -> Program:
            return self._programs.choose(image.shape[:2])

        for chosen, alike in itertools.groupby(images, program):
            while batch := list(itertools.islice(alike, self.batch_size)):
                yield from self._programs.run(chosen, batch, count)

    def _expected_grid(self, height: int, width: int) -> Grid:
        """How photos of this padded size are cut into tiles, going by the memory expected."""
        if self._tile != "auto":
            side = max(height, width) if self._tile == "off" else self._tile
            return tiles.square(height, width, side, self._overlap)
        area = min(height * width, self._most_pixels(height * width))
        return tiles.within(area, height, width, self._overlap)

    def _choose_grid(self, height: int, width: int) -> Grid:
        """How photos of this padded size are cut into tiles, decided at the first one.

        Raises:
            UserError: if not even the smallest tile fits into memory.
        """
        grid = self._planned.get((height, width)) or self._expected_grid(height, width)
        careful = True
        while self._tile == "auto":
            room = self._room(height * width)
            needed = MARGIN * self._programs.needed(self._programs.choose(grid.tile))
            whole = len(grid.places) == 1
            if needed <= room and (whole or needed > room / 2 or not careful):
                break
            if needed <= room:  # more was expected: once more with what is known now
                careful = False
            elif self._programs.drop(grid.tile):
                continue
            elif max(grid.tile) <= tiles.SMALLEST:
                raise UserError(
                    f"a tile of {grid.columns.tile}x{grid.rows.tile} pixels takes "
                    f"{needed / 2**30:.2f} GB of memory, but only {room / 2**30:.2f} GB are free: "
                    "close other programs, raise the limit, or use a smaller network"
                )
            else:
                shrunk = min(room / needed, 0.9) if needed < math.inf else 0.5
                self._largest = shrunk * grid.rows.tile * grid.columns.tile
            grid = self._expected_grid(height, width)
        return grid

    def _most_pixels(self, photo: int) -> float:
        """Pixels of the largest tile that is expected to fit, for photos of so many pixels."""
        expected = self._room(photo) / (MARGIN * self._programs.costs.memory)
        return min(expected, self._largest, self._programs.most_pixels)

    def _room(self, photo: int) -> float:
        """Bytes that each device has for the program, a photo of so many pixels taken off."""
        devices = list(self._mesh.devices.flat)
        room = memory.available_bytes(devices, self._memory_limit) - SCRATCH_BYTES
        if devices[0].platform == "cpu":
            room -= HOST_BYTES * photo * self.batch_size // len(devices)
        return max(0, room)


def told(tiles: Iterable[np.ndarray], total: int, progress: Progress) -> Iterator[np.ndarray]:
    """The tiles, as they come, with the share that has come told."""
    for done, tile in enumerate(tiles, 1):
        progress(done / total)
        yield tile


def to_floats(photo: np.ndarray) -> np.ndarray:
    """Integers to floats in [0, 1]; all as float32."""
    floats = photo.astype(np.float32)
    return floats / np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else floats


def from_floats(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Undoes `to_floats`; integers are clipped and rounded, floats are not.

    Raises:
        UserError: for integers where the image has values that are not finite.
    """
    if dtype.kind == "u":
        if not np.isfinite(image).all():
            raise UserError("what it is restored to is not finite; use other weights")
        largest = np.iinfo(dtype).max
        image = np.rint(np.clip(image, 0, 1) * largest)
    return image.astype(dtype)


def pad(image: np.ndarray) -> np.ndarray:
    """Grows an image to the right and to the bottom by its reflection, to multiples of 8.

    A side too short to fill the margin is reflected repeatedly; a side of one pixel is repeated.
    """
    margins = [(0, p - s) for p, s in zip(padded_size(*image.shape[:2]), image.shape)]
    return np.pad(image, [*margins, (0, 0)], "reflect")


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Sides grown to multiples of 8.

    >>> padded_size(480, 321)
    (480, 328)
    """
    return height + -height % SIZE_MULTIPLE, width + -width % SIZE_MULTIPLE


def check_tile(tile: int | str, overlap: int) -> None:
    """Raises UserError unless tiles of this size can be restored and blended."""
    if tile == "auto" and not 0 <= 2 * overlap < tiles.SMALLEST:
        raise UserError(f"overlap={overlap}: must be below {tiles.SMALLEST // 2}, and not negative")
    if tile in ("auto", "off"):
        return
    if not isinstance(tile, int) or tile % SIZE_MULTIPLE or tile <= 2 * overlap:
        raise UserError(
            f"tile={tile}: must be auto, off or a multiple of {SIZE_MULTIPLE} above {2 * overlap}, "
            f"twice the overlap"
        )


def check_photo(photo: np.ndarray) -> None:
    """Raises ValueError unless the photo is [H, W, 3], not empty, and of a known type."""
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"photo has shape {photo.shape}: must be [height, width, 3], not empty")
    if photo.dtype not in (np.uint8, np.uint16) and photo.dtype.kind != "f":
        raise ValueError(
            f"photo has dtype {photo.dtype}: must be uint8, uint16 or floats in [0, 1]"
        )
