"""The device mesh and how arrays lie on it.

Two axes: "data" holds different images, "height" holds bands of rows of the same images; parameters
are copied to every device. The compiler exchanges the rows at the borders of bands.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mprnet_jax.errors import UserError


def make_mesh(data: int = -1, height: int = 1) -> Mesh:
    """A mesh of data x height devices; -1 for one of them means as many as the other leaves.

    Those of a host follow each other, along "height" first: neighbours share images.

    Raises:
        UserError: if there are too few devices, or with several processes too many.
    """
    devices = jax.devices()
    for name, size in (("data", data), ("height", height)):
        if size < 1 and size != -1:
            raise UserError(f"mesh.{name}={size}: must be at least 1, or -1 for the rest")
    if data == height == -1:
        raise UserError("mesh.data and mesh.height are both -1: only one of them can be the rest")
    if data == -1:
        data = max(1, len(devices) // height)
    if height == -1:
        height = max(1, len(devices) // data)
    if data * height > len(devices):
        raise UserError(
            f"mesh.data={data} x mesh.height={height} needs {data * height} devices, "
            f"but there are {len(devices)}"
        )
    if data * height < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"mesh.data={data} x mesh.height={height} leaves some of the {len(devices)} devices "
            "idle, which processes that train together cannot do: use all"
        )
    # Not jax.make_mesh: that refuses GPUs of several hosts and height axes that a TPU's topology
    # lacks, and scatters a host's images over the batch, so that the host would load most of it.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(devices[: data * height]).reshape(data, height)
    return Mesh(grid, ("data", "height"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device: parameters, optimizer state, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def image_sharding(mesh: Mesh) -> NamedSharding:
    """[B, H, W, C] with images over "data" and rows over "height"."""
    return NamedSharding(mesh, PartitionSpec("data", "height"))


def sharding_constraint(mesh: Mesh) -> Callable[[jax.Array, int], jax.Array]:
    """What the model's `constrain` does on this mesh: it spreads whole maps over all devices.

    So each device works on its own patches, and no rows have to be exchanged. Left to itself, the
    compiler gathers whole batches of maps on every device where they are split and joined. Where
    halves of images are fewer than devices it does well, keeping bands of rows, and is left alone.
    """

    def constrain(maps: jax.Array, pieces: int) -> jax.Array:
        halves = 2 * len(maps) // pieces
        if halves % mesh.size or len(maps) % mesh.size:
            return maps
        whole = NamedSharding(mesh, PartitionSpec(("data", "height")))
        return jax.lax.with_sharding_constraint(maps, whole)

    return constrain


def check_divides(mesh: Mesh, batch_size: int, patch_size: int, accumulate: int = 1) -> None:
    """Raises UserError unless every device gets as many images and rows as every other, of each of
    the parts that `accumulate` cuts a batch into.
    """
    data, height = mesh.shape["data"], mesh.shape["height"]
    if batch_size % (data * accumulate):
        parts = f" in accumulate={accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"batch_size={batch_size}{parts} cannot be divided over mesh.data={data} devices: "
            "change one of them, or give the rest of the devices to mesh.height"
        )
    if patch_size % height:
        raise UserError(
            f"patches of {patch_size} pixels cannot be cut into mesh.height={height} bands of rows"
        )


def local_images(mesh: Mesh, batch_size: int) -> range:
    """The images of a batch that devices of this host hold, or hold bands of."""
    shape = (batch_size, mesh.shape["height"])
    places = image_sharding(mesh).addressable_devices_indices_map(shape).values()
    bounds = [place[0].indices(batch_size) for place in places]
    return range(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def put_batch(
    batch: dict[str, np.ndarray], mesh: Mesh, size: int | None = None, first: int = 0
) -> dict[str, jax.Array]:
    """Places a batch of images [B, H, W, C], and of numbers [B], on the devices of all hosts.

    This host gives the images from number `first` on, at least its `local_images`; by default all.
    """

    def put(values: np.ndarray) -> jax.Array:
        shape = (size or len(values), *values.shape[1:])
        sharding = NamedSharding(mesh, PartitionSpec(*("data", "height")[: values.ndim]))

        def cut(place: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = place[0].indices(shape[0])
            return values[(slice(start - first, stop - first), *place[1:])]

        return jax.make_array_from_callback(shape, sharding, cut)

    return {name: put(values) for name, values in batch.items()}
