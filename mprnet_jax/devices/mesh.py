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
    """A mesh of data x height devices; -1 for one of them means all that the other leaves.

    Raises:
        UserError: if there are too few devices or -1 leaves a remainder.
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
    return jax.make_mesh(
        (data, height),
        ("data", "height"),
        axis_types=(AxisType.Auto,) * 2,
        devices=devices[: data * height],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device: parameters, optimizer state, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def image_sharding(mesh: Mesh) -> NamedSharding:
    """[B, H, W, C] with images over "data" and rows over "height"."""
    return NamedSharding(mesh, PartitionSpec("data", "height"))


def placement(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """What the model's `place` does on this mesh to maps [B, H, W, C].

    Whole maps go to the devices, as many to each; where they are too few for that, the rows of each
    are spread over "height". Splitting and joining patches is then an exchange between neighbours;
    left to itself, the compiler gathers whole batches of maps on every device.
    """

    def place(x: jax.Array) -> jax.Array:
        if len(x) % mesh.size == 0:
            spec = PartitionSpec(("data", "height"))
        elif x.shape[1] % mesh.shape["height"] == 0:
            spec = PartitionSpec("data", "height")
        else:  # XLA spreads uneven rows, JAX has no name for it
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return place


def check_divides(mesh: Mesh, batch_size: int, patch_size: int) -> None:
    """Raises UserError unless every device gets as many images and rows as every other."""
    data, height = mesh.shape["data"], mesh.shape["height"]
    if batch_size % data:
        raise UserError(
            f"batch_size={batch_size} cannot be divided over mesh.data={data} devices: "
            "change one of them, or give the rest of the devices to mesh.height"
        )
    if patch_size % height:
        raise UserError(
            f"patches of {patch_size} pixels cannot be cut into mesh.height={height} bands of rows"
        )


def put_same_images(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places a batch that every host has whole."""
    sharding = image_sharding(mesh)
    return {
        name: jax.make_array_from_callback(images.shape, sharding, images.__getitem__)
        for name, images in batch.items()
    }


def put_images(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this host's share of a batch; the result is the batch of all hosts."""
    sharding = image_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, images)
        for name, images in batch.items()
    }
