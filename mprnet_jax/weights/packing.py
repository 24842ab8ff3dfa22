"""Joins many arrays into few: saving, loading and compiling take time per array, not per byte.

The counterpart in JAX is `jax.flatten_util.ravel_pytree`. It is not used here because it converts
all arrays to one dtype, works on devices, and returns the inverse as a closure over the tree.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def pack(tree: Any) -> dict[str, np.ndarray]:
    """Joins the arrays of a pytree into one vector per dtype, by the dtype's name.

    The vectors are copies.
    """
    by_dtype: dict[str, list[Any]] = {}
    for leaf in jax.tree.leaves(tree):
        by_dtype.setdefault(leaf.dtype.name, []).append(leaf)
    return {name: join(arrays) for name, arrays in by_dtype.items()}


def join(tree: Any) -> np.ndarray:
    """Joins the arrays of a pytree, all of one dtype, into a vector [N], which is a copy."""
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def split(vector: np.ndarray | jax.Array, shapes: Any) -> Any:
    """Splits a vector into arrays, the inverse of `join`.

    Differentiable: the gradient with respect to the vector is `join` of the arrays' gradients.

    Args:
        vector: [N], a numpy or JAX array.
        shapes: a pytree of arrays or ShapeDtypeStructs whose sizes sum to N.

    Returns:
        A pytree like `shapes`: views of a numpy vector, or JAX arrays.
    """
    leaves, tree = jax.tree.flatten(shapes)
    sizes = [leaf.size for leaf in leaves]
    parts: Any
    if isinstance(vector, np.ndarray):
        parts = np.split(vector, np.cumsum(sizes)[:-1])
    else:
        # Without the barrier XLA fuses each slice into the layer that uses it. The layers' programs
        # then differ by the offset, so that equal layers do not share kernels.
        parts = jax.lax.optimization_barrier(jax.lax.split(vector, sizes))
    return jax.tree.unflatten(tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)])


def empty_pack(shapes: Any) -> dict[str, np.ndarray]:
    """Returns uninitialised vectors of the sizes that `pack` returns for such arrays."""
    sizes: dict[str, int] = {}
    for leaf in jax.tree.leaves(shapes):
        sizes[leaf.dtype.name] = sizes.get(leaf.dtype.name, 0) + leaf.size
    return {name: np.empty(size, name) for name, size in sizes.items()}


def unpack(vectors: Mapping[str, np.ndarray], shapes: Any) -> Any:
    """Splits the vectors of `pack` into arrays on devices.

    Args:
        vectors: what `pack` returned, the same on every host.
        shapes: a pytree with the shapes, dtypes and shardings of the arrays.
    """
    offsets = dict.fromkeys(vectors, 0)

    def take(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = leaf.dtype.name
        start = offsets[name]
        offsets[name] = start + leaf.size
        values = vectors[name][start : offsets[name]].reshape(leaf.shape)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, values.__getitem__)

    return jax.tree.map(take, shapes)
