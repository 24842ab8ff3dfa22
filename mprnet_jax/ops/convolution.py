"""3x3 convolutions, computed in the way that is fastest on the device.

All ways compute the same function. Maps are [B, H, W, C], kernels [3, 3, C, D].
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import conv_general_dilated

LANES = 128  # channels that a TPU processes at a time
# Batch size from which XLA computes the gradient with respect to a kernel fast on a CPU.
MIN_IMAGES = 8
MIN_CHANNELS = 8  # with fewer, such as the three of images, no other way is faster
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, window_strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` of maps [B, H, W, C] and a 3x3 kernel.

    On a TPU, maps of few channels would leave most lanes empty, so two pixels of a row are
    convolved as one with twice the channels. On a CPU, the gradient with respect to the kernel is
    computed in another way for few images; that has no forward-mode derivative.

    Args:
        x: the maps.
        kernel: [3, 3, C, D].
        window_strides: must be 1.
        padding: passed on; must be zero padding that keeps the size.
        **options: passed on; dilations must be 1.

    Returns:
        [B, H, W, D].
    """
    dilations = (options.get("lhs_dilation"), options.get("rhs_dilation"))
    for factors in (window_strides, *dilations):
        assert factors is None or set(factors) == {1}, "no strides, no dilation"
    arguments = (window_strides, padding)
    if min(kernel.shape[2:]) < MIN_CHANNELS:
        return conv_general_dilated(x, kernel, *arguments, **options)
    return _by_platform(x, kernel, arguments, tuple(options.items()))


def uses_pairs(width: int, channels: int) -> bool:
    """Returns whether pairs of pixels are convolved as one.

    Args:
        width: columns of the maps.
        channels: of the maps or the results, whichever has more.
    """
    return width % 2 == 0 and 2 * channels <= LANES


# Jitted so that it is traced once for each shape: tracing `platform_dependent` is slow.
@functools.partial(jax.jit, static_argnames=("arguments", "options"), inline=True)
def _by_platform(x: jax.Array, kernel: jax.Array, arguments: tuple, options: tuple) -> jax.Array:
    def convolve_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_general_dilated(x, kernel, *arguments, **dict(options))

    def convolve_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = convolve_plain(x.reshape(b, h, w // 2, 2 * c), kernel_for_pairs(kernel))
        return y.reshape(b, h, w, kernel.shape[3])

    branches = {}
    narrow = uses_pairs(x.shape[2], max(kernel.shape[2:]))
    if narrow:
        branches["tpu"] = convolve_pairs
    # Bands to cut each image into. Programs for symbolic sizes (`jax.export`) have no gradient.
    count = MIN_IMAGES // max(1, len(x)) if isinstance(x.shape[0], int) else 1
    if count > 1 and x.size:
        if narrow:
            branches["cpu"] = with_kernel_gradient(convolve_plain, gradient_from_pairs)
        elif x.shape[1] % count == 0:
            from_bands = functools.partial(gradient_from_bands, count=count)
            branches["cpu"] = with_kernel_gradient(convolve_plain, from_bands)
    if not branches:
        return convolve_plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, **branches, default=convolve_plain)


def with_kernel_gradient(convolution: Callable, kernel_gradient: Callable) -> Callable:
    """Returns `convolution` with another way to compute the gradient with respect to the kernel.

    Args:
        convolution: `convolution(x, kernel)`, [B, H, W, C] and [3, 3, C, D] -> [B, H, W, D].
        kernel_gradient: `kernel_gradient(x, cotangent)`, with the cotangent of the result,
            [B, H, W, D]; returns [3, 3, C, D].
    """

    def backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple:
        x, kernel = saved
        (x_gradient,) = jax.linear_transpose(lambda x: convolution(x, kernel), x)(cotangent)
        return x_gradient, kernel_gradient(x, cotangent)

    function = jax.custom_vjp(convolution)
    function.defvjp(lambda x, kernel: (convolution(x, kernel), (x, kernel)), backward)
    return function


def kernel_for_pairs(kernel: jax.Array) -> jax.Array:
    """Returns the kernel [3, 3, 2C, 2D] for maps that hold two pixels of a row as one.

    Half of it is zeros. Output pixel i (0 or 1) of a pair needs input pixels i-1 to i+1, counted
    from the pair's first pixel; -1 and 2 lie in the neighbouring pairs.

    Args:
        kernel: [3, 3, C, D].
    """
    height, _, c, d = kernel.shape
    shifted = [
        jnp.pad(kernel, ((0, 0), (1 + i, 2 - i), (0, 0), (0, 0))).reshape(height, 3, 2 * c, d)
        for i in range(2)
    ]
    return jnp.concatenate(shifted, axis=-1)


def gradient_from_pairs(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Computes the gradient with respect to a 3x3 kernel from pairs of pixels of a row.

    The gradient is itself a convolution, of the maps by the cotangent, with the images as channels
    and C x D results for each of the 3 x 3 positions of the kernel. On a CPU that is slow for few
    channels. With pairs there are 2C x 2D results at 3 x 2 instead of 3 x 3 positions.

    Args:
        x: the maps, [B, H, W, C]; W even.
        cotangent: of the convolution's result, [B, H, W, D].

    Returns:
        [3, 3, C, D].
    """
    b, h, w, c = x.shape
    # Pixels -1 and 0, 1 and 2, ... of the map, but 0 and 1, 2 and 3, ... of the cotangent.
    pairs = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(b, h, w // 2 + 1, 2 * c)
    # Without the barrier XLA would fuse all of this into one loop with a branch per element.
    pairs = jax.lax.optimization_barrier(pairs.transpose(3, 1, 2, 0))
    cotangent = cotangent.reshape(b, h, w // 2, 2 * cotangent.shape[3]).transpose(1, 2, 0, 3)
    padding = ((1, 1), (0, 0))
    result = conv_general_dilated(pairs, cotangent, (1, 1), padding, dimension_numbers=DIMENSIONS)
    result = result.reshape(2, c, 3, 2, 2, -1)
    # Pixel i of the pair at `offset` from that of pixel j is 2 * offset + i - j - 1 pixels after j.
    columns = [
        sum(
            result[i, :, :, offset, j]
            for i, offset, j in itertools.product(range(2), repeat=3)
            if 2 * offset + i - j == column
        )
        for column in range(3)
    ]
    return jnp.stack(columns).transpose(2, 0, 1, 3)


def gradient_from_bands(x: jax.Array, cotangent: jax.Array, count: int) -> jax.Array:
    """Computes the gradient with respect to a 3x3 kernel from bands of rows, as separate images.

    Each of the `count` bands of an image has H / count rows, and one row of each neighbouring band.
    Arguments and result are those of `gradient_from_pairs`, but H must be a multiple of `count`.
    """
    b, h, w, c = x.shape
    rows = h // count
    bands = x.reshape(b, count, rows, w, c).transpose(4, 2, 3, 0, 1)
    bands = jax.lax.optimization_barrier(bands)  # as above
    edge = jnp.zeros((c, 1, w, b, 1), x.dtype)
    above = jnp.concatenate([edge, bands[:, -1:, ..., :-1]], axis=4)
    below = jnp.concatenate([bands[:, :1, ..., 1:], edge], axis=4)
    bands = jnp.concatenate([above, bands, below], axis=1).reshape(c, rows + 2, w, b * count)
    cotangent = cotangent.reshape(b, count, rows, w, -1).transpose(2, 3, 0, 1, 4)
    cotangent = cotangent.reshape(rows, w, b * count, -1)
    padding = ((0, 0), (1, 1))
    result = conv_general_dilated(bands, cotangent, (1, 1), padding, dimension_numbers=DIMENSIONS)
    return result.transpose(1, 2, 0, 3)
