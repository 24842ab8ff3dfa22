"""Many arrays as a few: saving and loading take time by their number, far more than by size."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def pack(tree: Any) -> dict[str, np.ndarray]:
    """Copies the arrays of a pytree end to end, to a vector for each dtype, named after it."""
    parts = {}
    for leaf in jax.tree.leaves(tree):
        parts.setdefault(leaf.dtype.name, []).append(np.asarray(leaf).ravel())
    return {name: np.concatenate(vectors) for name, vectors in parts.items()}


def empty_pack(shapes: Any) -> dict[str, np.ndarray]:
    """Vectors as `pack` makes them of arrays of these shapes and dtypes, with any values."""
    sizes = {}
    for leaf in jax.tree.leaves(shapes):
        sizes[leaf.dtype.name] = sizes.get(leaf.dtype.name, 0) + leaf.size
    return {name: np.empty(size, name) for name, size in sizes.items()}


def unpack(vectors: Mapping[str, np.ndarray], shapes: Any) -> Any:
    """The pytree that was packed, as arrays on devices.

    Args:
        vectors: what `pack` made of it.
        shapes: its shapes, dtypes and shardings; every host has all values.
    """
    taken = dict.fromkeys(vectors, 0)

    def take(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = leaf.dtype.name
        start = taken[name]
        taken[name] = start + leaf.size
        values = vectors[name][start : taken[name]].reshape(leaf.shape)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, values.__getitem__)

    return jax.tree.map(take, shapes)
