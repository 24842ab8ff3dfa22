"""3x3 convolutions in the way that is fast on the device; all ways compute the same function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import conv_general_dilated

LANES = 128  # channels that a TPU works on at a time


def convolve(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` of maps [B, H, W, C] and a 3x3 kernel, with zero padding.

    On a TPU, maps of few channels would leave most lanes empty, so pixels go through in pairs.
    """
    channels = kernel.shape[2:]
    # An image's three channels are not worth it, and odd widths have no pairs.
    if x.shape[2] % 2 or 2 * max(channels) > LANES or min(channels) < 8:
        return conv_general_dilated(x, kernel, *arguments, **options)
    return _by_platform(x, kernel, arguments, tuple(options.items()))


# Traced once for each shape: a choice costs far more to trace than a convolution.
@functools.partial(jax.jit, static_argnames=("arguments", "options"), inline=True)
def _by_platform(x: jax.Array, kernel: jax.Array, arguments: tuple, options: tuple) -> jax.Array:
    def pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_general_dilated(x, kernel, *arguments, **dict(options))

    def pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = pixels(x.reshape(b, h, w // 2, 2 * c), kernel_for_pairs(kernel))
        return y.reshape(b, h, w, -1)

    return jax.lax.platform_dependent(x, kernel, tpu=pairs, default=pixels)


def kernel_for_pairs(kernel: jax.Array) -> jax.Array:
    """What a kernel [3, 3, C, D] becomes for maps with two pixels of a row in one: [3, 3, 2C, 2D].

    Half of it is zeros. Pixel `i` of a pair of results sees pixels `i - 1` to `i + 1` of the pair
    in its place, or of the pairs beside it.
    """
    height, _, c, d = kernel.shape
    shifted = [
        jnp.pad(kernel, ((0, 0), (1 + i, 2 - i), (0, 0), (0, 0))).reshape(height, 3, 2 * c, d)
        for i in range(2)
    ]
    return jnp.concatenate(shifted, axis=-1)
