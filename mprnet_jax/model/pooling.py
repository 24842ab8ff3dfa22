"""How channel attention gathers its statistics: the mean over a whole map, or around each pixel.

Maps are [batch, height, width, channels]; sums run in float32 whatever the type of the map.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import slice_in_dim

LOCAL_WINDOW = 384  # pixels of the image that a local mean spans: 1.5 x the training patch of 256


def global_mean(x: jax.Array) -> jax.Array:
    """Mean over rows and columns: [B, H, W, C] -> [B, 1, 1, C]."""
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)


def local_mean(image_height: int, image_width: int) -> Callable[[jax.Array], jax.Array]:
    """The mean around each pixel, for maps of images of this size: test-time local conversion.

    The network trains on patches, so whole photos have other statistics than it knows; means over
    windows of about the patches' size restore better (Chu et al., "Improving Image Restoration by
    Revisiting Global Information Aggregation", ECCV 2022).

    The window spans 384 pixels of the image, or the whole map where that is smaller. Where it would
    leave the map, the nearest window inside stands in for it.

    Returns:
        A function from maps [B, h, w, C] to their means [B, h, w, C]; where the window spans all of
        h or w, that side is 1.
    """

    def pool(x: jax.Array) -> jax.Array:
        means = x.astype(jnp.float32)
        for axis, image_size in ((1, image_height), (2, image_width)):
            size = x.shape[axis]
            window = min(size, LOCAL_WINDOW * size // image_size)
            means = window_sums(means, window, axis) / window
            if window < size:
                before = (window - 1) // 2
                margins = [(0, 0)] * x.ndim
                margins[axis] = (before, window - 1 - before)
                means = jnp.pad(means, margins, mode="edge")
        return means.astype(x.dtype)

    return pool


def window_sums(x: jax.Array, window: int, axis: int) -> jax.Array:
    """Sums of `window` neighbours along an axis, at all n - window + 1 places that hold them.

    Sums over 1, 2, 4, ... neighbours come from adding two of half the length; those that the binary
    digits of `window` name make up the whole. At most 17 additions a pixel for the windows used
    here, whatever the size of the map, and never a difference of large sums: no digits are lost.
    """
    if window == x.shape[axis]:
        return jnp.sum(x, axis, keepdims=True)
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
