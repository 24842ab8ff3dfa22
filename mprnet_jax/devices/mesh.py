"""The device mesh, and how arrays are sharded over it.

The mesh has two axes. Images are sharded over "data" and the rows of each image over "height";
parameters are replicated. The compiler exchanges the rows at the borders between devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mprnet_jax.errors import UserError


def make_mesh(data: int = -1, height: int = 1) -> Mesh:
    """Makes a mesh of data x height devices.

    The devices of one host are neighbours, along "height" first, so that they share images.

    Args:
        data: number of devices along "data"; -1 for as many as there are.
        height: number of devices along "height"; -1 for as many as there are.

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
    """Returns the sharding of parameters, optimizer state and metrics: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [B, H, W, C]: images over "data" and rows over "height"."""
    return NamedSharding(mesh, PartitionSpec("data", "height"))


def sharding_constraint(mesh: Mesh) -> Callable[[jax.Array, int], jax.Array]:
    """Returns the model's `constrain`, which shards whole feature maps over all devices.

    Each device then works on patches of its own, without exchanging rows. Without the constraint
    the compiler gathers whole batches on every device where patches are split and merged. With
    fewer half images than devices it keeps bands of rows by itself, so there is no constraint then.
    """

    def constrain(maps: jax.Array, pieces: int) -> jax.Array:
        """Constrains feature maps [b, h, w, C], of which each image has so many pieces."""
        halves = 2 * len(maps) // pieces
        if halves % mesh.size or len(maps) % mesh.size:
            return maps
        whole = NamedSharding(mesh, PartitionSpec(("data", "height")))
        return jax.lax.with_sharding_constraint(maps, whole)

    return constrain


def check_divides(mesh: Mesh, batch_size: int, patch_size: int, accumulate: int = 1) -> None:
    """Raises UserError unless batches can be sharded evenly.

    Args:
        mesh: the devices.
        batch_size: images of all devices together.
        patch_size: rows of each image.
        accumulate: number of parts that each batch is computed in.
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
    """Returns which images of a batch this host's devices hold, wholly or in part."""
    shape = (batch_size, mesh.shape["height"])
    indices = image_sharding(mesh).addressable_devices_indices_map(shape).values()
    bounds = [index[0].indices(batch_size) for index in indices if index is not None]
    return range(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def put_batch(
    batch: dict[str, np.ndarray], mesh: Mesh, size: int | None = None, first: int = 0
) -> dict[str, jax.Array]:
    """Puts a batch of images [B, H, W, C] and numbers [B] on the devices of all hosts.

    Args:
        batch: this host's part of the batch, by name: at least its `local_images`.
        mesh: the devices.
        size: B, the number of images of all hosts; by default the batch given is the whole one.
        first: which image of the whole batch is the first one given.
    """

    def put(values: np.ndarray) -> jax.Array:
        shape = (size or len(values), *values.shape[1:])
        sharding = NamedSharding(mesh, PartitionSpec(*("data", "height")[: values.ndim]))

        def cut(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(shape[0])
            return values[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, cut)

    return {name: put(values) for name, values in batch.items()}
