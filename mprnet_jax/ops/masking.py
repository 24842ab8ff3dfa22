"""Sets maps to zero outside of their images, in the layout that is fast on the device."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from mprnet_jax.ops.convolution import MIN_CHANNELS, uses_pairs

ROWS, COLUMNS = 1, 2  # axes of [batch, height, width, channels]

# Axes from major to minor, in the layout of a TPU's convolutions.
CONVOLUTION_LAYOUT = (1, 2, 0, 3)


# Jitted so that it is traced once for each shape: tracing `platform_dependent` is slow.
@functools.partial(jax.jit, inline=True)
def mask(x: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """Sets maps to zero outside of their images. Multiplies by 0 there, so values must be finite.

    Args:
        x: maps [B, H, W, C].
        heights: of the images in pixels, int32 [B, 1, 1, 1], or [1, 1, 1, 1] for all.
        widths: likewise.

    Returns:
        [B, H, W, C].
    """
    return jax.lax.platform_dependent(x, heights, widths, tpu=mask_pairs, default=mask_pixels)


def mask_pixels(x: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """Computes `mask` pixel by pixel."""
    rows, columns = positions(x, ROWS), positions(x, COLUMNS)
    # Factors instead of `where`: compilers fuse them with the convolution before.
    return x * (rows < heights).astype(x.dtype) * (columns < widths).astype(x.dtype)


def mask_pairs(x: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """Computes `mask` on pairs of pixels, as a TPU's convolutions of narrow maps return them."""
    b, h, w, c = x.shape
    if c < MIN_CHANNELS or not uses_pairs(w, c):
        return mask_pixels(x, heights, widths)
    rows = positions(x, ROWS)
    columns = 2 * jax.lax.broadcasted_iota(jnp.int32, (1, 1, w // 2, 2 * c), COLUMNS)
    columns += jax.lax.broadcasted_iota(jnp.int32, columns.shape, 3) >= c
    x = x.reshape(b, h, w // 2, 2 * c)
    x = x * (rows < heights).astype(x.dtype) * (columns < widths).astype(x.dtype)
    if b == 1:
        # For one image, fix the layout: without this the compiler inserts layout changes before and
        # after.
        x = with_layout_constraint(x, Layout(major_to_minor=CONVOLUTION_LAYOUT))
    return x.reshape(b, h, w, c)


def positions(x: jax.Array, axis: int) -> jax.Array:
    """Returns 0, 1, 2, ... along an axis of `x`, int32 of size 1 along all other axes."""
    shape = [size if a == axis else 1 for a, size in enumerate(x.shape)]
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)
