"""The pooling of channel attention: the mean of a whole map, or a local mean around each pixel.

Maps are [batch, height, width, channels]. Sums are float32 whatever the dtype of the maps.
"""

import functools

import jax
import jax.numpy as jnp
from jax.lax import slice_in_dim

from mprnet_jax.model.canvas import COLUMNS, ROWS, Canvas, slice_each
from mprnet_jax.ops.masking import positions

# Side of a local mean's window, in pixels of the image: 1.5 x 256, the size of training patches.
LOCAL_WINDOW = 384


def global_mean(x: jax.Array, canvas: Canvas) -> jax.Array:
    """Computes the mean over rows and columns: [B, H, W, C] -> [B, 1, 1, C]."""
    return canvas.mean(x).astype(x.dtype)


def local_mean(x: jax.Array, canvas: Canvas) -> jax.Array:
    """Computes the mean around each pixel: [B, h, w, C] -> [B, h, w, C].

    The network is trained on patches, whose statistics differ from those of whole photos. Means
    over windows of about the patches' size restore photos better (test-time local conversion; Chu
    et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022).

    The window spans 384 pixels of the image, or the whole map if that is smaller; that side of the
    result is then 1. At the borders, the nearest window that lies inside of the map is used.
    """
    means = x.astype(jnp.float32)
    for axis, image_size in ((ROWS, canvas.height), (COLUMNS, canvas.width)):
        size = x.shape[axis]
        window = min(size, LOCAL_WINDOW * size // image_size)
        means = window_means(means, window, axis, canvas.lengths(x, axis))
    return means.astype(x.dtype)


def window_means(x: jax.Array, window: int, axis: int, lengths: int | jax.Array) -> jax.Array:
    """Computes means of `window` neighbours along an axis, each at the centre of its window.

    At the borders, the nearest window inside the image is used. An image that is not longer than
    the window has one mean.

    Args:
        x: maps, float32 [b, h, w, C], zero outside of the images.
        window: number of rows or columns to average.
        axis: `ROWS` or `COLUMNS`.
        lengths: of the images along the axis, as `Canvas.lengths` returns them.

    Returns:
        The shape of `x`, or 1 along the axis if the window spans the whole map.
    """
    size = x.shape[axis]
    if window == size:
        return jnp.sum(x, axis, keepdims=True) / lengths
    before = (window - 1) // 2
    margins = [(before, window - 1 - before) if a == axis else (0, 0) for a in range(x.ndim)]
    means = jnp.pad(window_sums(x, window, axis), margins, mode="edge") / window
    if isinstance(lengths, int):
        return means
    last = before + lengths - window  # centre of the last window inside of the image
    at_last = slice_each(means, jnp.maximum(last, 0), 1, axis)
    means = jnp.where(positions(x, axis) <= last, means, at_last)
    return jnp.where(lengths > window, means, jnp.sum(x, axis, keepdims=True) / lengths)


def window_sums(x: jax.Array, window: int, axis: int) -> jax.Array:
    """Computes sums of `window` neighbours along an axis of length n, at n - window + 1 positions.

    A sum over 2, 4, 8, ... neighbours is that of two sums of half the length. The binary digits of
    `window` say which of them add up to the whole. That takes at most 17 additions a pixel for the
    windows used here, whatever the size of the map, and never subtracts large sums, which would
    lose digits.
    """
    count = x.shape[axis] - window + 1
    sums, length, done = x, 1, 0
    parts: list[jax.Array] = []
    while True:
        if window & length:
            parts.append(slice_in_dim(sums, done, done + count, axis=axis))
            done += length
        if done == window:
            return functools.reduce(jnp.add, parts)
        half = sums.shape[axis] - length
        sums = slice_in_dim(sums, 0, half, axis=axis) + slice_in_dim(
            sums, length, length + half, axis=axis
        )
        length *= 2
