"""3x3 convolutions in the way that is fast on the device; all ways compute the same function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import conv_general_dilated

LANES = 128  # channels that a TPU works on at a time
IMAGES = 8  # that a CPU wants for a kernel's gradient


def convolve(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` of maps [B, H, W, C] and a 3x3 kernel, with zero padding, and
    without strides or dilation.

    On a TPU, maps of few channels would leave most lanes empty, so pixels go through in pairs. On a
    CPU, the kernel's gradient from few images comes from bands of their rows, as if they were more
    images; there is no forward-mode derivative then.
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

    count = IMAGES // max(1, len(x))  # bands of an image

    @jax.custom_vjp
    def bands(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return pixels(x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple:
        x, kernel = saved
        (by_x,) = jax.linear_transpose(lambda x: pixels(x, kernel), x)(gradient)
        return by_x, kernel_gradient(x, gradient, count)

    bands.defvjp(lambda x, kernel: (pixels(x, kernel), (x, kernel)), backward)

    ways = {}
    if x.shape[2] % 2 == 0 and 2 * max(kernel.shape[2:]) <= LANES:
        ways["tpu"] = pairs
    if len(x) and count > 1 and x.shape[1] % count == 0:
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


def kernel_gradient(x: jax.Array, gradient: jax.Array, count: int) -> jax.Array:
    """The gradient of a 3x3 kernel, [3, 3, C, D], for maps [B, H, W, C] and their convolution's
    gradient [B, H, W, D], from `count` bands of H / count rows of each image.

    It is a convolution itself: of the map by the gradient, with the images as channels. A CPU wants
    more channels than there are images, so their bands are the channels, a row of each neighbour
    with them.
    """
    b, h, w, c = x.shape
    rows = h // count
    bands = x.reshape(b, count, rows, w, c).transpose(4, 2, 3, 0, 1)
    # Without the barrier, what follows would be one loop that branches for every number.
    bands = jax.lax.optimization_barrier(bands)
    edge = jnp.zeros((c, 1, w, b, 1), x.dtype)
    above = jnp.concatenate([edge, bands[:, -1:, ..., :-1]], axis=4)
    below = jnp.concatenate([bands[:, :1, ..., 1:], edge], axis=4)
    bands = jnp.concatenate([above, bands, below], axis=1)
    gradient = gradient.reshape(b, count, rows, w, -1).transpose(2, 3, 0, 1, 4)
    result = conv_general_dilated(
        bands.reshape(c, rows + 2, w, b * count),
        gradient.reshape(rows, w, b * count, -1),
        window_strides=(1, 1),
        padding=((0, 0), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return result.transpose(1, 2, 0, 3)
