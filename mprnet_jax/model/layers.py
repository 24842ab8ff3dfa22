"""The blocks of MPRNet: channel attention, CAB, samplers, supervised attention (paper, section 3).

Feature maps are [batch, height, width, channels]. Parameters are float32; the computation runs in
`config.dtype`. A 1x1 convolution of channels-last maps is an `nnx.Linear`.

Images may lie in the upper left corner of larger arrays, the canvas (see `model.canvas`). Results
outside the images are set to zero (`canvas.mask`) before the next 3x3 convolution pads with them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.canvas import Canvas
from mprnet_jax.model.initializers import uniform
from mprnet_jax.model.pooling import global_mean
from mprnet_jax.ops.convolution import convolve


class Shared(NamedTuple):
    """Arguments that are the same for all blocks of a network, passed down at call time."""

    slope: jax.Array  # PReLU's slope for negative inputs, shape [1]
    canvas: Canvas  # image sizes within the padded arrays
    pool: Callable[[jax.Array, Canvas], jax.Array] = global_mean  # averages maps for attention


def conv3x3(
    c_in: int, c_out: int, config: ModelConfig, rngs: nnx.Rngs, bias: bool | None = None
) -> nnx.Conv:
    """Returns a 3x3 convolution, [B, H, W, c_in] -> [B, H, W, c_out], with zero padding.

    It has a bias if `bias`, by default if `config.bias`.
    """
    init = uniform((3, 3, c_in, c_out))
    return nnx.Conv(
        c_in,
        c_out,
        (3, 3),
        use_bias=config.bias if bias is None else bias,
        dtype=jnp.dtype(config.dtype),
        kernel_init=init,
        bias_init=init,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def conv1x1(
    c_in: int, c_out: int, config: ModelConfig, rngs: nnx.Rngs, bias: bool | None = None
) -> nnx.Linear:
    """Returns a 1x1 convolution, [B, H, W, c_in] -> [B, H, W, c_out].

    It has a bias if `bias`, by default if `config.bias`.
    """
    init = uniform((c_in, c_out))
    return nnx.Linear(
        c_in,
        c_out,
        use_bias=config.bias if bias is None else bias,
        dtype=jnp.dtype(config.dtype),
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


def fused_conv1x1(x: jax.Array, *convs: nnx.Linear) -> jax.Array:
    """Applies 1x1 convolutions in sequence as a single one, whose kernel is their matrix product.

    Args:
        x: maps [B, H, W, C].
        *convs: the convolutions; only the last one may have a bias.

    Returns:
        [B, H, W, D], where D is the number of output channels of the last convolution.
    """
    assert all(conv.bias is None for conv in convs[:-1]), "only the last may have a bias"
    kernel = convs[0].kernel[...]
    for conv in convs[1:]:
        kernel = jnp.matmul(kernel, conv.kernel[...], precision="highest")
    y = x @ kernel.astype(x.dtype)
    bias = convs[-1].bias
    return y if bias is None else y + bias[...].astype(x.dtype)


def conv_of_means(x: jax.Array, conv: nnx.Linear) -> jax.Array:
    """Applies a 1x1 convolution to channel means, in float32.

    It is written as a sum instead of a matmul: on GPUs, XLA autotunes each new shape of a matmul,
    which would dominate compile time.

    Args:
        x: float32 [B, 1, 1, C].
        conv: from C to D channels.

    Returns:
        Float32 [B, 1, 1, D].
    """
    y = jnp.sum(x[..., None] * conv.kernel[...], axis=-2)
    return y if conv.bias is None else y + conv.bias[...]


def scale(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies maps [B, H, W, C] by a factor that broadcasts to them, such as [B, 1, 1, C].

    The factor is broadcast in float32, so that its gradient is summed over the pixels in float32:
    in bfloat16 the sum would lose most of its digits.
    """
    return x * jnp.broadcast_to(factor.astype(jnp.float32), x.shape).astype(x.dtype)


def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns `x`, of any shape, where it is positive and `slope * x` elsewhere; `slope` is [1]."""
    return jnp.where(x > 0, x, scale(x, slope))


def downsample2x(x: jax.Array) -> jax.Array:
    """Resizes maps by 1/2, [B, H, W, C] -> [B, H/2, W/2, C]; H and W are even.

    Bilinear resizing with half-pixel centres, which is the mean of each 2x2 block.
    """
    b, h, w, c = x.shape
    blocks = x.astype(jnp.float32).reshape(b, h // 2, 2, w // 2, 2 * c)
    rows = blocks[:, :, 0] + blocks[:, :, 1]
    return (0.25 * (rows[..., :c] + rows[..., c:])).astype(x.dtype)


def upsample2x(x: jax.Array, canvas: Canvas) -> jax.Array:
    """Resizes maps by 2, [B, H, W, C] -> [B, 2H, 2W, C].

    Bilinear resizing with half-pixel centres and replicated edges, which are those of the images on
    the canvas: the weights along each axis are 1/4 and 3/4.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
        after = canvas.clamp_last(after, x, axis)
        pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape((*x.shape[:axis], 2 * size, *x.shape[axis + 1 :]))
    return canvas.mask(x)


def maybe_remat(block: Callable[[jax.Array], jax.Array], kind: str, mode: str) -> Callable:
    """Applies `jax.checkpoint` to a block if the config asks for it.

    Args:
        block: the function to wrap, [B, H, W, C] -> [B, H, W, C].
        kind: "cab" for a CAB, "orb" for any sequence of CABs, also those of encoders and decoders.
        mode: `config.remat`.

    Returns:
        The block, wrapped if `mode == kind`. If `mode` is "elementwise", CABs are wrapped so that
        the outputs of convolutions are saved and everything else is recomputed.
    """
    if mode == kind:
        return jax.checkpoint(block)
    if mode == "elementwise" and kind == "cab":
        # This policy saves the outputs of convolutions, too.
        return jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
    return block


class ChannelAttention(nnx.Module):
    """Scales each channel of maps [B, H, W, C] by a factor in (0, 1).

    The factors are computed from the means of all channels. With local pooling the means, and so
    the factors, differ from pixel to pixel.
    """

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        squeezed = channels // config.reduction
        self.squeeze = conv1x1(channels, squeezed, config, rngs)
        self.excite = conv1x1(squeezed, channels, config, rngs)

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        means = shared.pool(x, shared.canvas)
        if means.shape[1:3] != (1, 1):  # local means
            return scale(x, nnx.sigmoid(self.excite(nnx.relu(self.squeeze(means)))))
        squeezed = nnx.relu(conv_of_means(means.astype(jnp.float32), self.squeeze))
        return scale(x, nnx.sigmoid(conv_of_means(squeezed, self.excite)))


class CAB(nnx.Module):
    """Channel attention block: two 3x3 convolutions and channel attention, with a residual.

    Maps keep their shape, [B, H, W, C].
    """

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv1 = conv3x3(channels, channels, config, rngs)
        self.conv2 = conv3x3(channels, channels, config, rngs)
        self.attention = ChannelAttention(channels, config, rngs=rngs)
        self.remat = config.remat

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        mask = shared.canvas.mask

        def block(x: jax.Array) -> jax.Array:
            y = prelu(mask(self.conv1(x)), shared.slope)
            return self.attention(mask(self.conv2(y)), shared) + x

        return maybe_remat(block, "cab", self.remat)(x)


class CABs(nnx.Module):
    """A sequence of CABs; maps keep their shape, [B, H, W, C]."""

    def __init__(self, count: int, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.cabs = nnx.List([CAB(channels, config, rngs=rngs) for _ in range(count)])
        self.remat = config.remat

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        def sequence(x: jax.Array) -> jax.Array:
            for cab in self.cabs:
                x = cab(x, shared)
            return x

        return maybe_remat(sequence, "orb", self.remat)(x)


class Down(nnx.Module):
    """Goes to the next coarser level, [B, H, W, c_in] -> [B, H/2, W/2, c_out].

    Bilinear resizing by 1/2, then a 1x1 convolution.
    """

    def __init__(self, c_in: int, c_out: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv = conv1x1(c_in, c_out, config, rngs, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(downsample2x(x))


class Up(nnx.Module):
    """Goes to the next finer level, [B, H, W, c_in] -> [B, 2H, 2W, c_out].

    The paper resizes by 2 and then applies a 1x1 convolution. Both are linear and commute, so the
    convolution comes first here, on a quarter of the pixels.
    """

    def __init__(self, c_in: int, c_out: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv = conv1x1(c_in, c_out, config, rngs, bias=False)

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        return upsample2x(self.conv(x), shared.canvas)


class SAM(nnx.Module):
    """Supervised attention module (paper, figure 4): restores an image and gates features by it.

    Without `config.supervised_attention`, it restores the image and returns the features unchanged.
    """

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attends = config.supervised_attention
        if self.attends:
            self.features = conv1x1(channels, channels, config, rngs)
        self.residual = conv1x1(channels, 3, config, rngs)
        if self.attends:
            self.gate = conv1x1(3, channels, config, rngs)

    def __call__(
        self, x: jax.Array, degraded: jax.Array, shared: Shared
    ) -> tuple[jax.Array, jax.Array]:
        """Restores images from features.

        Args:
            x: features, [B, H, W, C].
            degraded: images, float32 [B, H, W, 3].
            shared: arguments of all blocks.

        Returns:
            The attended features, [B, H, W, C], and the restored images, float32 [B, H, W, 3].
        """
        mask = shared.canvas.mask
        restored = mask(self.residual(x).astype(jnp.float32) + degraded)
        if not self.attends:
            return x, restored
        attended = self.features(x) * nnx.sigmoid(self.gate(restored)) + x
        return mask(attended), restored


class ShallowFeatures(nnx.Module):
    """Computes features [B, H, W, C] of images [B, H, W, 3]: a 3x3 convolution and a CAB."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv = conv3x3(3, channels, config, rngs)
        self.cab = CAB(channels, config, rngs=rngs)

    def __call__(self, images: jax.Array, shared: Shared) -> jax.Array:
        return self.cab(shared.canvas.mask(self.conv(images)), shared)


class ORB(nnx.Module):
    """Original-resolution block: a sequence of CABs and a 3x3 convolution, with a residual.

    The convolution never has a bias. Maps keep their shape, [B, H, W, C].
    """

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.body = CABs(config.cabs_per_orb, channels, config, rngs=rngs)
        self.conv = conv3x3(channels, channels, config, rngs, bias=False)

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        return shared.canvas.mask(self.conv(self.body(x, shared))) + x
