"""Canvases: arrays larger than the images in them, so that one program serves images of any size.

An image lies in the upper left corner of its canvas. Its size is an argument of the program. All
maps are zero outside of the images: `Canvas.mask` follows every operation that would change that,
such as a 3x3 convolution. The results equal those for arrays of the images' own size, up to
rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mprnet_jax.ops import masking

ROWS, COLUMNS = 1, 2  # axes of [batch, height, width, channels]


class Canvas(NamedTuple):
    """Sizes of a network's input [B, height, width, 3] and of the images in it.

    The ratio of image to canvas is the same for maps of all levels and patches. The patches of an
    image follow each other on the batch axis.
    """

    height: int
    width: int
    sizes: jax.Array | None = None  # int32 [B, 2], multiples of 8; None: images fill the canvas

    def lengths(self, x: jax.Array, axis: int) -> int | jax.Array:
        """Returns the length of each image along an axis of maps [b, h, w, C].

        An int if the images fill the canvas; otherwise int32 [b, 1, 1, 1], or [1, 1, 1, 1] if there
        is one image.
        """
        if self.sizes is None:
            return x.shape[axis]
        whole = (self.height, self.width)[axis - 1]
        lengths = x.shape[axis] * self.sizes[:, axis - 1] // whole
        if len(lengths) > 1:
            lengths = jnp.repeat(lengths, len(x) // len(lengths))
        return lengths.reshape(-1, 1, 1, 1)

    def mask(self, x: jax.Array) -> jax.Array:
        """Sets maps [b, h, w, C] to zero outside of the images."""
        if self.sizes is None:
            return x
        return masking.mask(x, self.lengths(x, ROWS), self.lengths(x, COLUMNS))

    def clamp_last(self, shifted: jax.Array, x: jax.Array, axis: int) -> jax.Array:
        """Replicates the last pixel of each image at the end of maps shifted by one pixel.

        Args:
            shifted: at each pixel the next pixel of `x` along `axis`.
            x: maps [b, h, w, C].
            axis: `ROWS` or `COLUMNS`.

        Returns:
            `shifted`, but `x` itself at the last pixel of each image.
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
        """Splits each image in two along `axis`; the halves follow each other on the batch axis."""
        if self.sizes is None:
            shape = (*x.shape[:axis], 2, x.shape[axis] // 2, *x.shape[axis + 1 :])
            parts = jnp.moveaxis(x.reshape(shape), axis, 1)
            return parts.reshape((-1, *parts.shape[2:]))
        half = x.shape[axis] // 2
        first = jax.lax.slice_in_dim(x, 0, half, axis=axis)
        starts = jnp.asarray(self.lengths(x, axis) // 2)
        second = slices(x, starts, half, axis)
        parts = jnp.stack([first, second], axis=1)
        return self.mask(parts.reshape((-1, *parts.shape[2:])))

    def join(self, x: jax.Array, axis: int) -> jax.Array:
        """Joins the halves that `split` made."""
        parts = x.reshape((-1, 2, *x.shape[1:]))
        if self.sizes is None:
            parts = jnp.moveaxis(parts, 1, axis)
            return parts.reshape((*parts.shape[:axis], -1, *parts.shape[axis + 2 :]))
        size = x.shape[axis]
        first = pad(parts[:, 0], axis, 0, size)
        half = jnp.asarray(self.lengths(parts[:, 0], axis))
        second = slices(pad(parts[:, 1], axis, size, size), size - half, 2 * size, axis)
        return first + second  # at each pixel one of them is zero


def slices(x: jax.Array, starts: jax.Array, size: int, axis: int) -> jax.Array:
    """Slices `size` rows or columns out of each map [b, h, w, C].

    `starts` are int32 [b, 1, 1, 1], or [1, 1, 1, 1] if they are the same for all maps.
    """
    if len(starts) == 1:
        return jax.lax.dynamic_slice_in_dim(x, starts.reshape(()), size, axis)
    cut = jax.vmap(lambda m, start: jax.lax.dynamic_slice_in_dim(m, start, size, axis - 1))
    return cut(x, starts.reshape(-1))


def pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Pads maps with zeros along an axis."""
    return jnp.pad(x, [(before, after) if a == axis else (0, 0) for a in range(x.ndim)])
