"""Arrays that are larger than the images in them, so that one program serves images of any size.

An image lies in the upper left corner of its array, and its size is a number that the program gets
when it runs. All maps are zero outside of the images: whatever would carry numbers there, as 3x3
convolutions do, is followed by `Canvas.clear`. The results are those for arrays of the images' own
size, but for rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mprnet_jax.ops.convolution import mask

ROWS, COLUMNS = 1, 2  # axes of [batch, height, width, channels]


class Canvas(NamedTuple):
    """The size of the arrays [B, height, width, 3] that a network is given, and of their images.

    Maps of all levels and patches share one ratio of image to array. The patches of an image follow
    each other on the batch axis.
    """

    height: int
    width: int
    sizes: jax.Array | None = None  # int32 [B, 2], multiples of 8; None: the images fill the arrays

    def lengths(self, x: jax.Array, axis: int) -> int | jax.Array:
        """How much of an axis of maps [b, h, w, C] each image takes up.

        An int where images fill their arrays, otherwise int32 [b, 1, 1, 1], or [1, 1, 1, 1] where
        there is one image.
        """
        if self.sizes is None:
            return x.shape[axis]
        whole = (self.height, self.width)[axis - 1]
        lengths = x.shape[axis] * self.sizes[:, axis - 1] // whole
        if len(lengths) > 1:
            lengths = jnp.repeat(lengths, len(x) // len(lengths))
        return lengths.reshape(-1, 1, 1, 1)

    def clear(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, C] with zeros outside of the images."""
        if self.sizes is None:
            return x
        return mask(x, self.lengths(x, ROWS), self.lengths(x, COLUMNS))

    def clamp(self, following: jax.Array, x: jax.Array, axis: int) -> jax.Array:
        """`following` holds the pixel that follows each one of `x`; the last now follows itself."""
        if self.sizes is None:
            return following
        return jnp.where(positions(x, axis) == self.lengths(x, axis) - 1, x, following)

    def mean(self, x: jax.Array) -> jax.Array:
        """Means of maps [b, h, w, C] over the images' pixels, float32 [b, 1, 1, C]."""
        sums = jnp.sum(x, axis=(ROWS, COLUMNS), keepdims=True, dtype=jnp.float32)
        return sums / (self.lengths(x, ROWS) * self.lengths(x, COLUMNS))

    def split(self, x: jax.Array, axis: int) -> jax.Array:
        """Cuts every image in two along `axis`; the parts follow each other on the batch axis."""
        if self.sizes is None:
            shape = (*x.shape[:axis], 2, x.shape[axis] // 2, *x.shape[axis + 1 :])
            parts = jnp.moveaxis(x.reshape(shape), axis, 1)
            return parts.reshape((-1, *parts.shape[2:]))
        half = x.shape[axis] // 2
        first = jax.lax.slice_in_dim(x, 0, half, axis=axis)
        second = slices(x, self.lengths(x, axis) // 2, half, axis)
        parts = jnp.stack([first, second], axis=1)
        return self.clear(parts.reshape((-1, *parts.shape[2:])))

    def join(self, x: jax.Array, axis: int) -> jax.Array:
        """Undoes `split`."""
        parts = x.reshape((-1, 2, *x.shape[1:]))
        if self.sizes is None:
            parts = jnp.moveaxis(parts, 1, axis)
            return parts.reshape((*parts.shape[:axis], -1, *parts.shape[axis + 2 :]))
        size = x.shape[axis]
        first = pad(parts[:, 0], axis, 0, size)
        half = self.lengths(parts[:, 0], axis)
        second = slices(pad(parts[:, 1], axis, size, size), size - half, 2 * size, axis)
        return first + second  # one of them is zero


def positions(x: jax.Array, axis: int) -> jax.Array:
    """0, 1, 2, ... along an axis of maps [b, h, w, C], int32 of size 1 along the others."""
    shape = [size if a == axis else 1 for a, size in enumerate(x.shape)]
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def slices(x: jax.Array, starts: jax.Array, size: int, axis: int) -> jax.Array:
    """Of each map [b, h, w, C] `size` rows or columns, from its start on.

    The starts are [b, 1, 1, 1], or [1, 1, 1, 1] where all maps have the same.
    """
    if len(starts) == 1:
        return jax.lax.dynamic_slice_in_dim(x, starts.reshape(()), size, axis)
    cut = jax.vmap(lambda m, start: jax.lax.dynamic_slice_in_dim(m, start, size, axis - 1))
    return cut(x, starts.reshape(-1))


def pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Zeros before and after maps along an axis."""
    return jnp.pad(x, [(before, after) if a == axis else (0, 0) for a in range(x.ndim)])
