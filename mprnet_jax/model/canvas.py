"""Canvases: padded inputs, with the images' sizes as runtime arguments.

One program then serves images of all sizes. An image lies in the upper left corner of its canvas.
All maps are zero outside of the images: `Canvas.mask` follows every operation that would change
that, such as a 3x3 convolution. The results equal those for arrays of the images' own size, up to
rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mprnet_jax.ops import masking
from mprnet_jax.ops.masking import COLUMNS, ROWS


class Canvas(NamedTuple):
    """Sizes of a network's input [B, height, width, 3] and of the images in it.

    Maps of patches have shape [b, h, w, C], where b is B times the number of patches per image; the
    patches of an image follow each other. The ratio of image to canvas is the same in all maps.

    Attributes:
        height: rows of the canvas, in pixels.
        width: columns of the canvas, in pixels.
        sizes: heights and widths of the images, int32 [B, 2], multiples of 8; None if the images
            fill the canvas.
    """

    height: int
    width: int
    sizes: jax.Array | None = None

    def lengths(self, x: jax.Array, axis: int) -> int | jax.Array:
        """Returns the length of the image in each map [b, h, w, C] along `axis`, in pixels.

        An int if the images fill the canvas. Otherwise int32 [b, 1, 1, 1], or [1, 1, 1, 1] if B is
        1, since all patches of an image have the same size.
        """
        if self.sizes is None:
            return x.shape[axis]
        whole = (self.height, self.width)[axis - 1]
        lengths = x.shape[axis] * self.sizes[:, axis - 1] // whole
        if len(lengths) > 1:
            lengths = jnp.repeat(lengths, len(x) // len(lengths))
        return lengths.reshape(-1, 1, 1, 1)

    def mask(self, x: jax.Array) -> jax.Array:
        """Sets maps [b, h, w, C] to zero outside of the images; their values must be finite."""
        if self.sizes is None:
            return x
        return masking.mask(x, self.lengths(x, ROWS), self.lengths(x, COLUMNS))

    def clamp_last(self, shifted: jax.Array, x: jax.Array, axis: int) -> jax.Array:
        """Replicates each image's edge in maps shifted by one pixel.

        In `shifted` (the next pixel of `x` at each position), replaces the value at each image's
        last row or column by `x` itself.

        Args:
            shifted: maps [b, h, w, C].
            x: maps [b, h, w, C].
            axis: `ROWS` or `COLUMNS`.
        """
        if self.sizes is None:
            return shifted
        last = masking.positions(x, axis) == self.lengths(x, axis) - 1
        return jnp.where(last, x, shifted)

    def mean(self, x: jax.Array) -> jax.Array:
        """Returns the means of maps [b, h, w, C] over the images, float32 [b, 1, 1, C]."""
        sums = jnp.sum(x, axis=(ROWS, COLUMNS), keepdims=True, dtype=jnp.float32)
        return sums / (self.lengths(x, ROWS) * self.lengths(x, COLUMNS))

    def split(self, x: jax.Array, axis: int) -> jax.Array:
        """Splits each image of maps [b, h, w, C] into halves along `axis`.

        Returns [2b, h/2, w, C] or [2b, h, w/2, C]; the halves of an image follow each other.
        """
        if self.sizes is None:
            shape = (*x.shape[:axis], 2, x.shape[axis] // 2, *x.shape[axis + 1 :])
            parts = jnp.moveaxis(x.reshape(shape), axis, 1)
            return parts.reshape((-1, *parts.shape[2:]))
        half = x.shape[axis] // 2
        first = jax.lax.slice_in_dim(x, 0, half, axis=axis)
        starts = jnp.asarray(self.lengths(x, axis) // 2)
        second = slice_each(x, starts, half, axis)
        parts = jnp.stack([first, second], axis=1)
        return self.mask(parts.reshape((-1, *parts.shape[2:])))

    def join(self, x: jax.Array, axis: int) -> jax.Array:
        """Joins halves of images along `axis`; the inverse of `split`.

        Maps [2b, h, w, C] become [b, 2h, w, C] or [b, h, 2w, C].
        """
        parts = x.reshape((-1, 2, *x.shape[1:]))
        if self.sizes is None:
            parts = jnp.moveaxis(parts, 1, axis)
            return parts.reshape((*parts.shape[:axis], -1, *parts.shape[axis + 2 :]))
        size = x.shape[axis]
        first = pad(parts[:, 0], axis, 0, size)
        half = jnp.asarray(self.lengths(parts[:, 0], axis))
        second = slice_each(pad(parts[:, 1], axis, size, size), size - half, 2 * size, axis)
        return first + second  # at each pixel one of them is zero


def slice_each(x: jax.Array, starts: jax.Array, size: int, axis: int) -> jax.Array:
    """Slices `size` rows or columns out of each map, starting at its own position.

    Args:
        x: maps [b, h, w, C].
        starts: first row or column, int32 [b, 1, 1, 1], or [1, 1, 1, 1] if it is the same for all.
        size: number of rows or columns.
        axis: `ROWS` or `COLUMNS`.

    Returns:
        [b, size, w, C] or [b, h, size, C].
    """
    if len(starts) == 1:
        return jax.lax.dynamic_slice_in_dim(x, starts.reshape(()), size, axis)
    cut = jax.vmap(lambda m, start: jax.lax.dynamic_slice_in_dim(m, start, size, axis - 1))
    return cut(x, starts.reshape(-1))


def pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Pads an array with `before` and `after` zeros along an axis."""
    return jnp.pad(x, [(before, after) if a == axis else (0, 0) for a in range(x.ndim)])
