"""Many arrays as a few: saving, loading and compiling take time by their number, not by size."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def pack(tree: Any) -> dict[str, np.ndarray]:
    """Copies the arrays of a pytree end to end, to a vector for each dtype, named after it."""
    parts = {}
    for leaf in jax.tree.leaves(tree):
        parts.setdefault(leaf.dtype.name, []).append(leaf)
    return {name: join(arrays) for name, arrays in parts.items()}


def join(tree: Any) -> np.ndarray:
    """Copies the arrays of a pytree, all of one dtype, end to end to a vector."""
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def split(vector: np.ndarray | jax.Array, shapes: Any) -> Any:
    """The pytree that was joined, its `shapes` given: views of a NumPy vector, or JAX arrays.

    Its derivative by the vector is the arrays' derivatives, joined.
    """
    leaves, tree = jax.tree.flatten(shapes)
    sizes = [leaf.size for leaf in leaves]
    if isinstance(vector, np.ndarray):
        parts = np.split(vector, np.cumsum(sizes)[:-1])
    else:
        # Without the barrier each place in the vector would be compiled into what uses it, so that
        # equal layers had no kernels in common.
        parts = jax.lax.optimization_barrier(jax.lax.split(vector, sizes))
    return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)])


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
