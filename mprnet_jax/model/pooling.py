"""How channel attention gathers its statistics: the mean over a whole map, or around each pixel.

Maps are [batch, height, width, channels]; sums run in float32 whatever the type of the map.
"""

import jax
import jax.numpy as jnp
from jax.lax import slice_in_dim

from mprnet_jax.model.canvas import COLUMNS, ROWS, Canvas, positions, slices

LOCAL_WINDOW = 384  # pixels of the image that a local mean spans: 1.5 x the training patch of 256


def global_mean(x: jax.Array, canvas: Canvas) -> jax.Array:
    """Mean over rows and columns: [B, H, W, C] -> [B, 1, 1, C]."""
    return canvas.mean(x).astype(x.dtype)


def local_mean(x: jax.Array, canvas: Canvas) -> jax.Array:
    """The mean around each pixel, test-time local conversion: [B, h, w, C] -> [B, h, w, C].

    The network trains on patches, so whole photos have other statistics than it knows; means over
    windows of about the patches' size restore better (Chu et al., "Improving Image Restoration by
    Revisiting Global Information Aggregation", ECCV 2022).

    The window spans 384 pixels of the image, or the whole map where that is smaller; a side of the
    result may then be 1. Where the window would leave the map, the nearest one inside stands in.
    """
    means = x.astype(jnp.float32)
    for axis, image_size in ((ROWS, canvas.height), (COLUMNS, canvas.width)):
        size = x.shape[axis]
        window = min(size, LOCAL_WINDOW * size // image_size)
        means = window_means(means, window, axis, canvas.lengths(x, axis))
    return means.astype(x.dtype)


def window_means(x: jax.Array, window: int, axis: int, lengths: int | jax.Array) -> jax.Array:
    """Means of `window` neighbours along an axis, each where its window is centred.

    Maps end at their `lengths`, an int or int32 [B, 1, 1, 1], and are zero beyond. A map shorter
    than the window has one mean.
    """
    size = x.shape[axis]
    if window == size:
        return jnp.sum(x, axis, keepdims=True) / lengths
    before = (window - 1) // 2
    margins = [(before, window - 1 - before) if a == axis else (0, 0) for a in range(x.ndim)]
    means = jnp.pad(window_sums(x, window, axis), margins, mode="edge") / window
    if isinstance(lengths, int):
        return means
    last = before + lengths - window  # where the last window is centred that ends with the map
    at_last = slices(means, jnp.maximum(last, 0), 1, axis)
    means = jnp.where(positions(x, axis) <= last, means, at_last)
    return jnp.where(lengths > window, means, jnp.sum(x, axis, keepdims=True) / lengths)


def window_sums(x: jax.Array, window: int, axis: int) -> jax.Array:
    """Sums of `window` neighbours along an axis, at all n - window + 1 places that hold them.

    Sums over 1, 2, 4, ... neighbours come from adding two of half the length; those that the binary
    digits of `window` name make up the whole. At most 17 additions a pixel for the windows used
    here, whatever the size of the map, and never a difference of large sums: no digits are lost.
    """
    places = x.shape[axis] - window + 1
    sums, length, total, done = x, 1, None, 0
    while True:
        if window & length:
            part = slice_in_dim(sums, done, done + places, axis=axis)
            total, done = part if total is None else total + part, done + length
        if done == window:
            return total
        half = sums.shape[axis] - length
        sums = slice_in_dim(sums, 0, half, axis=axis) + slice_in_dim(
            sums, length, length + half, axis=axis
        )
        length *= 2
