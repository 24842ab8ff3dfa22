"""Restores photos of any size with a trained network.

Photos are NumPy or JAX arrays [H, W, 3]: uint8, uint16, or floats in [0, 1]. Restored photos are
NumPy arrays of the same shape and dtype; integers are clipped and rounded, floats are not.

A program is the network, compiled for one shape of arrays. With a canvas, the images in them may be
smaller. See `restoration.planning`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mprnet_jax.config import SIZE_MULTIPLE
from mprnet_jax.devices import memory
from mprnet_jax.devices.memory import OutOfMemory
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
from mprnet_jax.export import runtimes
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.restoration import tiles
from mprnet_jax.restoration.arrays import as_array, check_values, from_floats, to_floats
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.engine import Engine
from mprnet_jax.restoration.jax_engine import JaxEngine
from mprnet_jax.restoration.planning import Plan
from mprnet_jax.restoration.programs import CanvasTooLarge, Programs
from mprnet_jax.restoration.runtime_engine import RuntimeEngine
from mprnet_jax.restoration.sizes import Size, padded_size
from mprnet_jax.restoration.tiles import Grid
from mprnet_jax.restoration.tiling import Tiling
from mprnet_jax.symmetries import apply_symmetry, invert_symmetry

# The rotations by 0, 90, 180 and 270 degrees, then those of the mirrored photo: 4, 7, 6 and 5, as
# symmetry 4 + k rotates k times before it mirrors. The order decides the last bits of the mean.
ENSEMBLE = (0, 1, 2, 3, 4, 7, 6, 5)

ENGINES = ("auto", "jax", *runtimes.NAMES)

Photo = np.ndarray | jax.Array
Progress = Callable[[float], object]  # called with the share of the work that is done, in (0, 1]


def no_progress(share: float) -> None:
    """A `Progress` that does nothing."""


def fastest_engine(mesh: Mesh, *, local_pooling: bool, precision: str | None) -> str:
    """Returns the engine that restores fastest: "openvino" if the mesh is one CPU, else "jax".

    It is also "jax" if OpenVINO is not installed, if `local_pooling` or `precision` is set, which
    OpenVINO does not have, or if the process has a limit on its address space, at which OpenVINO
    may crash. How fast each engine is: benchmarks/results/engines.md.
    """
    on_one_cpu = [device.platform for device in mesh.devices.flat] == ["cpu"]
    supported = on_one_cpu and not local_pooling and precision is None
    if supported and not memory.address_space_limit() and runtimes.can_run_networks("openvino"):
        return "openvino"
    return "jax"


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
        stages: int | None = None,
        batch_size: int = 1,
        mesh: Mesh | None = None,
        memory_limit: int | None = None,
        precision: str | None = None,
        engine: str = "jax",
    ):
        """Makes a restorer. Programs are compiled at first use, or ahead of time by `plan`.

        Args:
            model: the trained network.
            tile: side in pixels of the tiles that photos are restored in. "off" restores them
                whole; "auto" whole if they fit into memory, else in the largest tiles that fit.
            overlap: pixels over which neighbouring tiles are blended.
            local_pooling: whether channel attention averages around each pixel, over windows of the
                size of training patches, instead of over the whole photo (test-time local
                converter, TLC).
            ensemble: whether to average over the 8 symmetries of the square; 8 times slower.
            stages: how many of the network's stages to compute; fewer are faster. None: all.
            batch_size: how many photos or tiles each device along "data" restores at once.
            mesh: the devices, with axes "data" and "height" (`devices.mesh.make_mesh`); photos and
                tiles are sharded over the first, the rows of each over the second. By default one
                device.
            memory_limit: with `tile="auto"`, the most bytes that this process may have in use on
                each device, or on all together if they are CPUs; see `memory.available_bytes`.
            precision: of float32 matmuls and convolutions, as in `jax.default_matmul_precision`;
                "highest" is full precision on TPUs and GPUs too.
            engine: what computes the network, one of `ENGINES`. The runtimes "onnxruntime" and
                "openvino" use the CPU and compile nothing; they have no `local_pooling`, no
                `precision`, and a mesh of one device. "auto" is the `fastest_engine`.

        Raises:
            TypeError: if `model` is no network.
            UserError: if an option has an impossible value, rows cannot be sharded over the mesh,
                or the engine is not installed or does not have an option.
        """
        if not isinstance(model, nnx.Module):
            raise TypeError(
                f"model is a {type(model).__name__}: must be a network; pass mprnet_jax.load(PATH)"
            )
        if engine not in ENGINES:
            raise UserError(f"engine={engine}: must be one of {', '.join(ENGINES)}")
        mesh = mesh or make_mesh(data=1)
        if engine == "auto":
            engine = fastest_engine(mesh, local_pooling=local_pooling, precision=precision)
        check_tile(tile, overlap)
        stages = model.config.computed_stages(stages)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size={batch_size}: must be an integer of at least 1")
        if SIZE_MULTIPLE % mesh.shape["height"]:
            raise UserError(
                f"cannot spread rows over {mesh.shape['height']} devices: use 1, 2, 4 or 8"
            )
        self.stages = stages
        self.engine = engine
        self.batch_size = batch_size * mesh.shape["data"]  # of all devices together
        self._symmetries = ENSEMBLE if ensemble else (0,)
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "stages": stages,
            "local_pooling": local_pooling,
            "precision": precision,
        }
        implementation: Engine
        if engine == "jax":
            implementation = JaxEngine(model, mesh, **options)
        else:
            implementation = RuntimeEngine(engine, model, mesh, **options)
        self._programs = Programs(implementation, self.batch_size)
        self._tiling = Tiling(self._programs, tile=tile, overlap=overlap, memory_limit=memory_limit)

    def plan(self, sizes: Mapping[Size, int] | Iterable[Size]) -> Plan:
        """Plans which programs restore photos of these sizes, and begins to compile them.

        If one program restores all of them, it is compiled at first use.

        Args:
            sizes: the (height, width) of each photo; or the number of photos of each size.
        """
        counts: Counter[Size] = Counter()
        largest = 0
        for size, count in Counter(sizes).items():
            orientations = [size, size[::-1]] if len(self._symmetries) > 1 else [size]
            for height, width in orientations:
                padded = padded_size(height, width)
                grid = self._tiling.plan(padded)
                images = count * len(grid.places) * len(self._symmetries) // len(orientations)
                counts[grid.tile] += images
                largest = max(largest, math.prod(padded))
        return self._programs.plan(counts, self._tiling.max_tile_pixels(largest))

    def program_for(self, size: Size) -> ProgramShape:
        """Returns the program that is expected to restore photos of a size, (height, width).

        With `ensemble`, rotated photos may use another one.
        """
        return self._programs.choose(self._tiling.expected(padded_size(*size)).tile)

    def __call__(self, photo: Photo) -> np.ndarray:
        """Restores one photo [H, W, 3] with sides of any length; raises as `batch` does."""
        return self.batch([photo])[0]

    def batch(self, photos: Sequence[Photo], progress: Progress = no_progress) -> list[np.ndarray]:
        """Restores photos; consecutive ones that share a program share batches.

        Args:
            photos: [H, W, 3] each.
            progress: called after each tile. If tiles or a canvas do not fit into memory, the work
                starts again with smaller ones, and the share goes back.

        Raises:
            TypeError: if a photo is not an array of NumPy or JAX.
            ValueError: if a photo has another shape, no pixels, an unknown dtype, or floats that
                are not in [0, 1].
            UserError: if the network returns values that are not finite for a photo of integers.
            OutOfMemory: if a device runs out of memory; with `tile="auto"`, only if not even the
                smallest tile fits.
        """
        return [images[0] for images in self._restore_photos(photos, 1, progress)]

    def stages_of(self, photo: Photo) -> list[np.ndarray]:
        """Returns the images of all computed stages for a photo [H, W, 3], the last stage first."""
        return list(self._restore_photos([photo], self.stages)[0])

    def grid_of(self, photo: Photo) -> Grid:
        """Returns the tiles that a photo is restored in.

        With `tile="auto"`, compiles their program first, to find out whether it fits into memory.
        """
        return self._tiling.choose(padded_size(*as_array(photo).shape[:2]))

    def _restore_photos(
        self, photos: Sequence[Photo], num_stages: int, progress: Progress = no_progress
    ) -> list[np.ndarray]:
        """Returns for each photo the images of the last stages, [num_stages, H, W, 3]."""
        arrays = [as_array(photo) for photo in photos]
        for array in arrays:
            check_values(array)
        images = [to_floats(array) for array in arrays]
        sums: list[Any] = [0.0] * len(images)
        for done, symmetry in enumerate(self._symmetries):
            transformed = [apply_symmetry(image, symmetry) for image in images]

            def overall(share: float, done: int = done) -> None:
                progress((done + share) / len(self._symmetries))

            restored = self._restore_images(transformed, num_stages, overall)
            sums = [
                total + invert_symmetry(image, symmetry) for total, image in zip(sums, restored)
            ]
        means = [total / len(self._symmetries) for total in sums]
        return [from_floats(mean, array.dtype) for mean, array in zip(means, arrays)]

    def _restore_images(
        self, images: list[np.ndarray], num_stages: int, progress: Progress
    ) -> list[np.ndarray]:
        """Restores images of any size: pads them, cuts them into tiles, and joins the results."""
        padded = [pad(image) for image in images]
        while True:
            grids = [self._tiling.choose(image.shape[:2]) for image in padded]
            to_restore = (tile for image, grid in zip(padded, grids) for tile in grid.cut(image))
            restored = self._restore_tiles(to_restore, num_stages)
            restored = report_progress(restored, sum(len(grid.places) for grid in grids), progress)
            try:
                joined = [g.join(itertools.islice(restored, len(g.places))) for g in grids]
                break
            except CanvasTooLarge:
                continue  # smaller canvases have replaced it in the plan
            except OutOfMemory:
                # Less memory is free than the device reported, as other processes use it too.
                if not self._tiling.shrink(grids):
                    raise
        return [j[:, : i.shape[0], : i.shape[1]] for j, i in zip(joined, images)]

    def _restore_tiles(self, tiles: Iterable[np.ndarray], num_stages: int) -> Iterator[np.ndarray]:
        """Yields the images [num_stages, h, w, 3] of each tile, computed in batches."""

        def choose(tile: np.ndarray) -> ProgramShape:
            return self._programs.choose(tile.shape[:2])

        for program, group in itertools.groupby(tiles, choose):
            while batch := list(itertools.islice(group, self.batch_size)):
                yield from self._programs.run(program, batch, num_stages)


def report_progress(
    tiles: Iterable[np.ndarray], total: int, progress: Progress
) -> Iterator[np.ndarray]:
    """Yields the tiles; before each, calls `progress` with the share of tiles up to this one."""
    for done, tile in enumerate(tiles, 1):
        progress(done / total)
        yield tile


def pad(image: np.ndarray) -> np.ndarray:
    """Pads an image [H, W, C] on the right and at the bottom by reflection, to multiples of 8.

    A side shorter than its padding is reflected repeatedly; a side of one pixel is repeated.
    """
    padding = [(0, p - s) for p, s in zip(padded_size(*image.shape[:2]), image.shape)]
    return np.pad(image, [*padding, (0, 0)], "reflect")


def check_tile(tile: int | str, overlap: int) -> None:
    """Raises UserError unless tiles of this size can be restored and blended."""
    if not isinstance(overlap, int) or overlap < 0:
        raise UserError(f"overlap={overlap}: must be an integer of at least 0")
    if tile == "auto" and 2 * overlap >= tiles.MIN_SIDE:
        raise UserError(f"overlap={overlap}: must be below {tiles.MIN_SIDE // 2}")
    if tile in ("auto", "off"):
        return
    if not isinstance(tile, int) or tile % SIZE_MULTIPLE or tile <= 2 * overlap:
        raise UserError(
            f"tile={tile}: must be auto, off or a multiple of {SIZE_MULTIPLE} above {2 * overlap}, "
            f"twice the overlap"
        )
