"""3x3 convolutions in the way that is fast on the device; all ways compute the same function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import conv_general_dilated

LANES = 128  # channels that a TPU works on at a time
PACKET = 8  # numbers that a CPU works on at a time


def convolve(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` of maps [B, H, W, C] and a 3x3 kernel, with zero padding.

    On a TPU, maps of few channels would leave most lanes empty, so pixels go through in pairs. On a
    CPU, backpropagation of few images takes bands of their rows for more images.
    """
    # An image's three channels are not worth it.
    if min(kernel.shape[2:]) < 8:
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

    @jax.custom_vjp
    def bands(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return pixels(x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple:
        x, kernel = saved
        _, pull_back = jax.vjp(lambda x: pixels(x, kernel), x)
        return *pull_back(gradient), kernel_gradient(x, gradient)

    bands.defvjp(lambda x, kernel: (pixels(x, kernel), (x, kernel)), backward)

    ways = {}
    if x.shape[2] % 2 == 0 and 2 * max(kernel.shape[2:]) <= LANES:
        ways["tpu"] = pairs
    if 2 * len(x) <= PACKET and x.shape[1] % (PACKET // len(x)) == 0:
        ways["cpu"] = bands
    if not ways:
        return pixels(x, kernel)
    return jax.lax.platform_dependent(x, kernel, **ways, default=pixels)


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


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient of a 3x3 kernel, [3, 3, C, D], for maps [B, H, W, C] and their convolution's
    gradient [B, H, W, D], from bands of rows.

    It is a convolution itself: of the map by the gradient, with the images as channels. A CPU wants
    more channels than there are images, so each image is cut into bands, one row overlapping.
    """
    b, h, w, c = x.shape
    count = PACKET // b
    rows = h // count
    bands = x.reshape(b, count, rows, w, c).transpose(4, 2, 3, 1, 0)
    # Without the barrier, what follows would be one loop with a choice for every number.
    bands = jax.lax.optimization_barrier(bands)
    edge = jnp.zeros((c, 1, w, 1, b), x.dtype)
    above = jnp.concatenate([edge, bands[:, -1:, :, :-1]], axis=3)
    below = jnp.concatenate([bands[:, :1, :, 1:], edge], axis=3)
    bands = jnp.concatenate([above, bands, below], axis=1)
    gradient = gradient.reshape(b, count, rows, w, -1).transpose(2, 3, 1, 0, 4)
    result = conv_general_dilated(
        bands.reshape(c, rows + 2, w, count * b),
        gradient.reshape(rows, w, count * b, -1),
        window_strides=(1, 1),
        padding=((0, 0), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return result.transpose(1, 2, 0, 3)
