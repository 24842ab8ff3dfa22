"""The blocks of MPRNet: channel attention, CAB, samplers, supervised attention (paper, section 3).

All maps are [batch, height, width, channels]. Parameters are float32; the computation runs in
`config.dtype`. 1x1 convolutions are `nnx.Linear`, which is what they are on channels-last maps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.canvas import Canvas
from mprnet_jax.model.pooling import global_mean
from mprnet_jax.ops.convolution import convolve

# What PyTorch starts convolutions from: uniform in +-1/sqrt(fan_in).
kernel_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Shared(NamedTuple):
    """What all CABs of a network have in common, handed down at call time."""

    slope: jax.Array  # of PReLU on negative values, shape [1]
    canvas: Canvas  # that the images lie on
    pool: Callable[[jax.Array, Canvas], jax.Array] = global_mean  # of channel attention


def bias_init(fan_in: int) -> Callable:
    """PyTorch's start for a bias: uniform in +-1/sqrt(fan_in), fan_in being the kernel's."""

    def init(key, shape, dtype=jnp.float32, **_):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv3x3(c_in: int, c_out: int, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Conv:
    """A 3x3 convolution with zero padding that keeps the size."""
    return nnx.Conv(
        c_in,
        c_out,
        (3, 3),
        use_bias=config.bias,
        dtype=jnp.dtype(config.dtype),
        kernel_init=kernel_init,
        bias_init=bias_init(9 * c_in),
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def conv1x1(c_in: int, c_out: int, config: ModelConfig, rngs: nnx.Rngs, bias=None) -> nnx.Linear:
    """A 1x1 convolution; `bias` overrides the config's."""
    return nnx.Linear(
        c_in,
        c_out,
        use_bias=config.bias if bias is None else bias,
        dtype=jnp.dtype(config.dtype),
        kernel_init=kernel_init,
        bias_init=bias_init(c_in),
        rngs=rngs,
    )


def chain(x: jax.Array, *convs: nnx.Linear) -> jax.Array:
    """Applies 1x1 convolutions in a row as the one that their kernels multiply to.

    Only the last may have a bias.
    """
    kernel = convs[0].kernel[...]
    for conv in convs[1:]:
        kernel = jnp.matmul(kernel, conv.kernel[...], precision="highest")
    y = x @ kernel.astype(x.dtype)
    bias = convs[-1].bias
    return y if bias is None else y + bias[...].astype(x.dtype)


def weighted_sum(x: jax.Array, conv: nnx.Linear) -> jax.Array:
    """`conv(x)` in float32 of a single pixel an image, but not as a product of matrices: of these a
    GPU's compiler makes and tries a kernel each.
    """
    y = jnp.sum(x[..., None] * conv.kernel[...], axis=-2)
    return y if conv.bias is None else y + conv.bias[...]


def scale(x: jax.Array, factor: jax.Array) -> jax.Array:
    """`x` times a factor for many pixels, which is spread out in float32: so its gradient is summed
    up in float32, for a sum of so many terms in bfloat16 would lose its digits.
    """
    return x * jnp.broadcast_to(factor.astype(jnp.float32), x.shape).astype(x.dtype)


def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """x where positive, slope * x elsewhere."""
    return jnp.where(x > 0, x, scale(x, slope))


def downsample2x(x: jax.Array) -> jax.Array:
    """Bilinear x0.5 with half-pixel centres: the mean of each 2x2 block."""
    b, h, w, c = x.shape
    blocks = x.astype(jnp.float32).reshape(b, h // 2, 2, w // 2, 2 * c)
    rows = blocks[:, :, 0] + blocks[:, :, 1]
    return (0.25 * (rows[..., :c] + rows[..., c:])).astype(x.dtype)


def upsample2x(x: jax.Array, canvas: Canvas) -> jax.Array:
    """Bilinear x2 with half-pixel centres and clamped edges: weights 1/4 and 3/4 on each axis."""
    for axis in (1, 2):
        size = x.shape[axis]
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
        after = canvas.clamp(after, x, axis)
        pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape((*x.shape[:axis], 2 * size, *x.shape[axis + 1 :]))
    return canvas.clear(x)


def remat(block: Callable[[jax.Array], jax.Array], kind: str, chosen: str) -> Callable:
    """`block`, computed anew by backpropagation where `config.remat`, the `chosen`, asks for it.

    `kind` is the block's: "cab", or "orb" for a row of CABs.
    """
    if chosen == kind:
        return jax.checkpoint(block)
    if chosen == "elementwise" and kind == "cab":
        return jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
    return block


class ChannelAttention(nnx.Module):
    """Scales each channel by what a small network makes of all channels' means."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        squeezed = channels // config.reduction
        self.squeeze = conv1x1(channels, squeezed, config, rngs)
        self.excite = conv1x1(squeezed, channels, config, rngs)

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        means = shared.pool(x, shared.canvas)
        if means.shape[1:3] != (1, 1):
            return scale(x, nnx.sigmoid(self.excite(nnx.relu(self.squeeze(means)))))
        squeezed = nnx.relu(weighted_sum(means.astype(jnp.float32), self.squeeze))
        return scale(x, nnx.sigmoid(weighted_sum(squeezed, self.excite)))


class CAB(nnx.Module):
    """Channel attention block: two 3x3 convolutions, channel attention, and the input added."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv1 = conv3x3(channels, channels, config, rngs)
        self.conv2 = conv3x3(channels, channels, config, rngs)
        self.attention = ChannelAttention(channels, config, rngs=rngs)
        self.remat = config.remat

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        clear = shared.canvas.clear

        def block(x: jax.Array) -> jax.Array:
            y = prelu(clear(self.conv1(x)), shared.slope)
            return self.attention(clear(self.conv2(y)), shared) + x

        return remat(block, "cab", self.remat)(x)


class CABs(nnx.Module):
    """CABs in a row."""

    def __init__(self, count: int, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.cabs = nnx.List([CAB(channels, config, rngs=rngs) for _ in range(count)])
        self.remat = config.remat

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        def row(x: jax.Array) -> jax.Array:
            for cab in self.cabs:
                x = cab(x, shared)
            return x

        return remat(row, "orb", self.remat)(x)


class Down(nnx.Module):
    """To the next coarser level: bilinear x0.5, then a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv = conv1x1(c_in, c_out, config, rngs, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(downsample2x(x))


class Up(nnx.Module):
    """To the next finer level: bilinear x2 and a 1x1 convolution.

    The two commute, so the convolution runs first, on a quarter of the pixels.
    """

    def __init__(self, c_in: int, c_out: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv = conv1x1(c_in, c_out, config, rngs, bias=False)

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        return upsample2x(self.conv(x), shared.canvas)


class SAM(nnx.Module):
    """Supervised attention module (paper, figure 4): a stage's image, and features gated by it."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.features = conv1x1(channels, channels, config, rngs)
        self.residual = conv1x1(channels, 3, config, rngs)
        self.gate = conv1x1(3, channels, config, rngs)

    def __call__(
        self, x: jax.Array, degraded: jax.Array, shared: Shared
    ) -> tuple[jax.Array, jax.Array]:
        """Features [B, H, W, C] and images [B, H, W, 3] -> attended features, restored images."""
        clear = shared.canvas.clear
        restored = clear(self.residual(x).astype(jnp.float32) + degraded)
        attended = self.features(x) * nnx.sigmoid(self.gate(restored)) + x
        return clear(attended), restored
