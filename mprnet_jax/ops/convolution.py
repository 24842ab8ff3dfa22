"""3x3 convolutions in the way that is fast on the device; all ways compute the same function."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.lax import conv_general_dilated

LANES = 128  # channels that a TPU works on at a time
IMAGES = 8  # that a CPU wants for a kernel's gradient
CONVOLVED = (1, 2, 0, 3)  # axes of [B, H, W, C] as a TPU's convolutions lay them out, major first
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` of maps [B, H, W, C] and a 3x3 kernel, with zero padding, and
    without strides or dilation.

    On a TPU, maps of few channels would leave most lanes empty, so pixels go through in pairs. On a
    CPU, the kernel's gradient from few images is computed in another order; there is no
    forward-mode derivative then.
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
        return y.reshape(b, h, w, kernel.shape[3])

    ways = {}
    narrow = x.shape[2] % 2 == 0 and 2 * max(kernel.shape[2:]) <= LANES
    if narrow:
        ways["tpu"] = pairs
    count = IMAGES // max(1, len(x))  # bands of an image
    if x.size and count > 1:
        if narrow:
            ways["cpu"] = with_kernel_gradient(pixels, gradient_from_pairs)
        elif x.shape[1] % count == 0:
            from_bands = functools.partial(gradient_from_bands, count=count)
            ways["cpu"] = with_kernel_gradient(pixels, from_bands)
    if not ways:
        return pixels(x, kernel)
    return jax.lax.platform_dependent(x, kernel, **ways, default=pixels)


# Traced once for each shape, as above.
@functools.partial(jax.jit, inline=True)
def mask(x: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] with zeros beyond the heights and widths, int32 [B or 1, 1, 1, 1]."""
    return jax.lax.platform_dependent(x, heights, widths, tpu=mask_pairs, default=mask_pixels)


def mask_pixels(x: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """`mask` of maps as they are."""
    rows = jax.lax.broadcasted_iota(jnp.int32, (1, x.shape[1], 1, 1), 1)
    columns = jax.lax.broadcasted_iota(jnp.int32, (1, 1, x.shape[2], 1), 2)
    # Factors, not a condition: compilers fuse them with the convolution before.
    return x * (rows < heights).astype(x.dtype) * (columns < widths).astype(x.dtype)


def mask_pairs(x: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """`mask` of the pairs of pixels that a TPU's convolutions of narrow maps give."""
    b, h, w, c = x.shape
    if w % 2 or not 8 <= c <= LANES // 2:
        return mask_pixels(x, heights, widths)
    rows = jax.lax.broadcasted_iota(jnp.int32, (1, h, 1, 1), 1)
    columns = 2 * jax.lax.broadcasted_iota(jnp.int32, (1, 1, w // 2, 2 * c), 2)
    columns += jax.lax.broadcasted_iota(jnp.int32, columns.shape, 3) >= c
    x = x.reshape(b, h, w // 2, 2 * c)
    x = x * (rows < heights).astype(x.dtype) * (columns < widths).astype(x.dtype)
    if b == 1:  # else the compiler would lay out maps of large images anew before and after this
        x = with_layout_constraint(x, Layout(major_to_minor=CONVOLVED))
    return x.reshape(b, h, w, c)


def with_kernel_gradient(convolution: Callable, kernel_gradient: Callable) -> Callable:
    """A convolution of maps and a kernel, with another way to the kernel's gradient."""

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple:
        x, kernel = saved
        (by_x,) = jax.linear_transpose(lambda x: convolution(x, kernel), x)(gradient)
        return by_x, kernel_gradient(x, gradient)

    function = jax.custom_vjp(convolution)
    function.defvjp(lambda x, kernel: (convolution(x, kernel), (x, kernel)), backward)
    return function


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


def gradient_from_pairs(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient of a 3x3 kernel, [3, 3, C, D], for maps [B, H, W, C] and their convolution's
    gradient [B, H, W, D], with two pixels of a row in one.

    It is a convolution itself: of the map by the gradient, with the images as channels, and with C
    times D results for each of the kernel's places. A CPU wants more of these than narrow maps
    have. In pairs they are four times as many, for two thirds of the places.
    """
    b, h, w, c = x.shape
    # Pixels -1 and 0, 1 and 2, ... of the map, but 0 and 1, 2 and 3, ... of the gradient.
    pairs = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(b, h, w // 2 + 1, 2 * c)
    # Without the barrier, what follows would be one loop that branches for every number.
    pairs = jax.lax.optimization_barrier(pairs.transpose(3, 1, 2, 0))
    gradient = gradient.reshape(b, h, w // 2, 2 * gradient.shape[3]).transpose(1, 2, 0, 3)
    padding = ((1, 1), (0, 0))
    found = conv_general_dilated(pairs, gradient, (1, 1), padding, dimension_numbers=DIMENSIONS)
    found = found.reshape(2, c, 3, 2, 2, -1)
    # Pixel i of the pair that comes `place` after pixel j's, is 2 place + i - j - 1 after it.
    columns = [
        sum(
            found[i, :, :, place, j]
            for i, place, j in itertools.product(range(2), repeat=3)
            if 2 * place + i - j == column
        )
        for column in range(3)
    ]
    return jnp.stack(columns).transpose(2, 0, 1, 3)


def gradient_from_bands(x: jax.Array, gradient: jax.Array, count: int) -> jax.Array:
    """The same from `count` bands of H / count rows of each image, as if they were more images.

    A row of each neighbouring band belongs to them.
    """
    b, h, w, c = x.shape
    rows = h // count
    bands = x.reshape(b, count, rows, w, c).transpose(4, 2, 3, 0, 1)
    bands = jax.lax.optimization_barrier(bands)  # as above
    edge = jnp.zeros((c, 1, w, b, 1), x.dtype)
    above = jnp.concatenate([edge, bands[:, -1:, ..., :-1]], axis=4)
    below = jnp.concatenate([bands[:, :1, ..., 1:], edge], axis=4)
    bands = jnp.concatenate([above, bands, below], axis=1).reshape(c, rows + 2, w, b * count)
    gradient = gradient.reshape(b, count, rows, w, -1).transpose(2, 3, 0, 1, 4)
    gradient = gradient.reshape(rows, w, b * count, -1)
    padding = ((0, 0), (1, 1))
    found = conv_general_dilated(bands, gradient, (1, 1), padding, dimension_numbers=DIMENSIONS)
    return found.transpose(1, 2, 0, 3)
