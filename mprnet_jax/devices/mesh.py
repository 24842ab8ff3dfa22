"""The device mesh, and how arrays are sharded over it.

The mesh has two axes. Images are sharded over "data" and the rows of each image over "height";
parameters are replicated. For convolutions over sharded rows, the compiler inserts the halo
exchange between devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mprnet_jax.errors import UserError


def make_mesh(data: int = -1, height: int = 1) -> Mesh:
    """Makes a mesh of data x height devices.

    The devices of one process are neighbours, along "height" first, so that they share images.
    With -1 some devices stay idle if the other size does not divide their number.

    Args:
        data: number of devices along "data", or -1 to use all remaining devices.
        height: number of devices along "height", or -1 to use all remaining devices.

    Raises:
        UserError: if a size is neither -1 nor at least 1, if both are -1, if there are too few
            devices, or if one of several processes would leave devices idle.
    """
    devices = jax.devices()
    for name, size in (("data", data), ("height", height)):
        if size < 1 and size != -1:
            raise UserError(
                f"mesh.{name}={size}: must be at least 1, or -1 to use all remaining devices"
            )
    if data == height == -1:
        raise UserError("mesh.data and mesh.height are both -1: only one may be -1")
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
            "idle: multi-process training must use every device"
        )
    # Not jax.make_mesh: that refuses GPUs of several processes and height axes that a TPU's
    # topology lacks, and scatters a process's images over the batch, so that it would load most of
    # the batch.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(devices[: data * height]).reshape(data, height)
    return Mesh(grid, ("data", "height"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters, optimizer state and metrics: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [B, H, W, C]: images over "data" and rows over "height"."""
    return NamedSharding(mesh, PartitionSpec("data", "height"))


def sharding_constraint(mesh: Mesh) -> Callable[[jax.Array, int], jax.Array]:
    """Returns the model's `constrain`, which shards whole feature maps over all devices.

    Each device then works on patches of its own, without halo exchange. Without the constraint the
    compiler gathers whole batches on every device where images are split and joined. No constraint
    unless both the number of half images and of maps are multiples of the device count.

    Returns:
        `constrain(maps, num_patches)`, with feature maps [b, h, w, C] and the number of patches per
        image.
    """

    def constrain(maps: jax.Array, num_patches: int) -> jax.Array:
        halves = 2 * len(maps) // num_patches
        if halves % mesh.size or len(maps) % mesh.size:
            return maps
        whole = NamedSharding(mesh, PartitionSpec(("data", "height")))
        return jax.lax.with_sharding_constraint(maps, whole)

    return constrain


def check_divides(mesh: Mesh, batch_size: int, accumulate: int = 1, **image_heights: int) -> None:
    """Checks that batches can be sharded evenly.

    Args:
        mesh: the devices.
        batch_size: images of all devices together.
        accumulate: number of microbatches that each batch is computed in.
        **image_heights: rows of the images, by the config fields that set them.

    Raises:
        UserError: if they cannot; it names the field.
    """
    data, height = mesh.shape["data"], mesh.shape["height"]
    if batch_size % (data * accumulate):
        parts = f" in accumulate={accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"batch_size={batch_size}{parts} cannot be divided over mesh.data={data} devices: "
            "change one of them, or give the rest of the devices to mesh.height"
        )
    for field, rows in image_heights.items():
        if rows % height:
            raise UserError(
                f"{field}={rows} cannot be divided into mesh.height={height} equal bands of rows: "
                "change one of them"
            )


def local_images(mesh: Mesh, batch_size: int) -> range:
    """Returns the indices of a batch's images that this process's devices hold, even in part."""
    shape = (batch_size, mesh.shape["height"])
    indices = image_sharding(mesh).addressable_devices_indices_map(shape).values()
    bounds = [index[0].indices(batch_size) for index in indices if index is not None]
    return range(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def put_batch(
    batch: dict[str, np.ndarray], mesh: Mesh, size: int | None = None, first: int = 0
) -> dict[str, jax.Array]:
    """Puts a batch on the devices of all processes.

    Args:
        batch: this process's part, at least its `local_images`: arrays [b, H, W, C] or [b] by name.
        mesh: the devices.
        size: B, the number of images of all processes; by default b, if `batch` is the whole batch.
        first: index in the whole batch of the first image in `batch`.

    Returns:
        Arrays [B, H, W, C], sharded over "data" and "height", and [B], sharded over "data".
    """

    def put(values: np.ndarray) -> jax.Array:
        shape = (size or len(values), *values.shape[1:])
        sharding = NamedSharding(mesh, PartitionSpec(*("data", "height")[: values.ndim]))

        def cut(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(shape[0])
            return values[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, cut)

    return {name: put(values) for name, values in batch.items()}
