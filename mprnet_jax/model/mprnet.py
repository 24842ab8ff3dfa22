"""MPRNet: encoder-decoders on patches, then a network at full resolution (paper, figure 2).

The patches of stages 1 and 2 follow each other on the batch axis: an image split in two becomes two
images. Where the paper's text and the official weights disagree, this follows the weights (bilinear
resizing instead of max pooling).
"""

import functools
from collections.abc import Callable
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mprnet_jax.config import SIZE_MULTIPLE, ModelConfig
from mprnet_jax.model.canvas import COLUMNS, ROWS, Canvas
from mprnet_jax.model.initializers import SLOPE, init_params
from mprnet_jax.model.layers import (
    CAB,
    ORB,
    SAM,
    CABs,
    Down,
    ShallowFeatures,
    Shared,
    Up,
    conv1x1,
    conv3x3,
    fused_conv1x1,
    upsample2x,
)
from mprnet_jax.model.pooling import global_mean

# Features of levels 1, 2 and 3: [b, h, w, c1], [b, h/2, w/2, c2] and [b, h/4, w/4, c3].
Levels = tuple[jax.Array, ...]


def unconstrained(maps: jax.Array, pieces: int) -> jax.Array:
    """Default of `constrain`: does nothing."""
    return maps


class CSFF(nnx.Module):
    """Cross-stage feature fusion at one level (paper, section 3.3)."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.encoder = conv1x1(channels, channels, config, rngs)
        self.decoder = conv1x1(channels, channels, config, rngs)

    def __call__(self, encoded: jax.Array, decoded: jax.Array) -> jax.Array:
        """Fuses an encoder's and a decoder's features of stage 1; all are [B, h, w, C]."""
        return self.encoder(encoded) + self.decoder(decoded)


class Encoder(nnx.Module):
    """The contracting half of a U-Net; if `fuses`, it adds features of stage 1 at each level."""

    def __init__(self, config: ModelConfig, *, fuses: bool = False, rngs: nnx.Rngs):
        c1, c2, c3 = widths = config.level_widths
        self.level1 = CABs(2, c1, config, rngs=rngs)
        self.level2 = CABs(2, c2, config, rngs=rngs)
        self.level3 = CABs(2, c3, config, rngs=rngs)
        self.down12 = Down(c1, c2, config, rngs=rngs)
        self.down23 = Down(c2, c3, config, rngs=rngs)
        self.csff = nnx.List([CSFF(c, config, rngs=rngs) for c in widths] if fuses else [])

    def __call__(
        self, x: jax.Array, shared: Shared, stage1_levels: tuple[Levels, Levels] | None = None
    ) -> Levels:
        """Encodes features [b, h, w, width].

        `stage1_levels` are the encoded and the decoded levels of stage 1, given exactly if `fuses`.
        """
        assert bool(self.csff) == (stage1_levels is not None), "stage1_levels if and only if fuses"

        def fuse(x: jax.Array, index: int) -> jax.Array:
            if stage1_levels is None:
                return x
            encoded, decoded = stage1_levels
            return x + shared.canvas.mask(self.csff[index](encoded[index], decoded[index]))

        e1 = fuse(self.level1(x, shared), 0)
        e2 = fuse(self.level2(self.down12(e1), shared), 1)
        e3 = fuse(self.level3(self.down23(e2), shared), 2)
        return e1, e2, e3


class Decoder(nnx.Module):
    """The expanding half of a U-Net, with a CAB on each skip connection."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c1, c2, c3 = config.level_widths
        self.level1 = CABs(2, c1, config, rngs=rngs)
        self.level2 = CABs(2, c2, config, rngs=rngs)
        self.level3 = CABs(2, c3, config, rngs=rngs)
        self.skip1 = CAB(c1, config, rngs=rngs)
        self.skip2 = CAB(c2, config, rngs=rngs)
        self.up21 = Up(c2, c1, config, rngs=rngs)
        self.up32 = Up(c3, c2, config, rngs=rngs)

    def __call__(self, encoded: Levels, shared: Shared) -> Levels:
        """Decodes the levels of an encoder; the result has their shapes."""
        e1, e2, e3 = encoded
        d3 = self.level3(e3, shared)
        d2 = self.level2(self.up32(d3, shared) + self.skip2(e2, shared), shared)
        d1 = self.level1(self.up21(d2, shared) + self.skip1(e1, shared), shared)
        return d1, d2, d3


class Lift(nnx.Module):
    """Projects one level of an earlier stage to ORSNet's width, at the level's resolution.

    In the paper, levels 2 and 3 are resized by 2 once and twice, with a 1x1 convolution after each,
    and a last 1x1 convolution follows. They commute with resizing, so `__call__` applies them
    before, as a single one, and the caller resizes the sum of several results.
    """

    def __init__(self, level: int, config: ModelConfig, *, rngs: nnx.Rngs):
        widths = config.level_widths
        self.ups = nnx.List(
            [
                conv1x1(widths[i], widths[i - 1], config, rngs, bias=False)
                for i in range(level - 1, 0, -1)
            ]
        )
        self.conv = conv1x1(config.width, config.width + config.orsnet_growth, config, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects features [b, h, w, C] of the level to [b, h, w, width + orsnet_growth]."""
        return fused_conv1x1(x, *self.ups, self.conv)


class ORSNet(nnx.Module):
    """Original-resolution subnetwork: three ORBs; one level of stage 2 is added after each."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        channels = config.width + config.orsnet_growth
        self.orbs = nnx.List([ORB(channels, config, rngs=rngs) for _ in range(3)])
        self.encoder_lifts = nnx.List([Lift(level, config, rngs=rngs) for level in (1, 2, 3)])
        self.decoder_lifts = nnx.List([Lift(level, config, rngs=rngs) for level in (1, 2, 3)])

    def __call__(self, x: jax.Array, encoded: Levels, decoded: Levels, shared: Shared) -> jax.Array:
        """Refines features [B, H, W, width + orsnet_growth], whose shape the result has.

        `encoded` and `decoded` are the levels of stage 2.
        """
        for index in range(3):
            lifted = self.encoder_lifts[index](encoded[index])
            lifted += self.decoder_lifts[index](decoded[index])
            lifted = shared.canvas.mask(lifted)
            for _ in range(index):
                lifted = upsample2x(lifted, shared.canvas)
            x = self.orbs[index](x, shared) + lifted
        return x


class MPRNet(nnx.Module):
    """The network of "Multi-Stage Progressive Image Restoration" (Zamir et al., CVPR 2021)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        f, f3 = config.width, config.width + config.orsnet_growth
        self.config = config
        # One slope for the PReLUs of all CABs.
        self.slope = nnx.Param(jnp.full((1,), SLOPE, jnp.float32))
        self.shallow1 = ShallowFeatures(config, rngs=rngs)
        self.shallow2 = ShallowFeatures(config, rngs=rngs)
        self.shallow3 = ShallowFeatures(config, rngs=rngs)
        self.encoder1 = Encoder(config, rngs=rngs)
        self.decoder1 = Decoder(config, rngs=rngs)
        self.sam12 = SAM(f, config, rngs=rngs)
        self.concat12 = conv3x3(2 * f, f, config, rngs)
        self.encoder2 = Encoder(config, fuses=True, rngs=rngs)
        self.decoder2 = Decoder(config, rngs=rngs)
        self.sam23 = SAM(f, config, rngs=rngs)
        self.concat23 = conv3x3(2 * f, f3, config, rngs)
        self.orsnet = ORSNet(config, rngs=rngs)
        self.tail = conv3x3(f3, 3, config, rngs)

    def __call__(
        self,
        images: jax.Array,
        stages: int = 3,
        pool: Callable[[jax.Array, Canvas], jax.Array] = global_mean,
        constrain: Callable[[jax.Array, int], jax.Array] = unconstrained,
        sizes: jax.Array | None = None,
    ) -> list[jax.Array]:
        """Restores degraded images.

        Args:
            images: [B, H, W, 3] floats in [0, 1]; H and W multiples of 8.
            stages: number of stages to compute, 1 to 3.
            pool: `pool(maps, canvas)` averages maps [b, h, w, c] for channel attention. The result
                is [b, 1, 1, c], or has h rows, w columns or both if means differ along them.
            constrain: `constrain(maps, pieces)` constrains the sharding of maps after a split or
                join; `pieces` is the number of patches that an image now consists of.
            sizes: int32 [B, 2], height and width of each image, multiples of 8, if images lie in
                the upper left corner of larger arrays; see `Canvas`. Input pixels outside the
                images may hold any finite values (not NaN or inf). Ignore output pixels there.

        Returns:
            The stages' images, last stage first, each [B, H, W, 3] float32 and not clipped.

        Raises:
            ValueError: if the images' shape or dtype or the number of stages is not as above.
        """
        check_images(images)
        if stages not in (1, 2, 3):
            raise ValueError(f"stages={stages}: must be 1, 2 or 3")
        height, width = images.shape[1:3]
        canvas = Canvas(height, width, sizes)
        shared = Shared(self.slope[...], canvas, pool)
        images = constrain(canvas.mask(images.astype(jnp.float32)), 1)
        halves = constrain(canvas.split(images, ROWS), 2)
        quadrants = constrain(canvas.split(halves, COLUMNS), 4)

        # Stage 1 encodes quadrants and decodes halves.
        encoded = self.encoder1(self.shallow1(quadrants, shared), shared)
        encoded1 = tuple(constrain(canvas.join(e, COLUMNS), 2) for e in encoded)
        decoded1 = self.decoder1(encoded1, shared)
        attended, restored = self.sam12(decoded1[0], halves, shared)
        restored1 = constrain(canvas.join(restored, ROWS), 1)
        if stages == 1:
            return [restored1]

        # Stage 2 encodes halves and decodes the whole image.
        x = jnp.concatenate([self.shallow2(halves, shared), attended], axis=-1)
        encoded = self.encoder2(canvas.mask(self.concat12(x)), shared, (encoded1, decoded1))
        encoded2 = tuple(constrain(canvas.join(e, ROWS), 1) for e in encoded)
        decoded2 = self.decoder2(encoded2, shared)
        attended, restored2 = self.sam23(decoded2[0], images, shared)
        if stages == 2:
            return [restored2, restored1]

        # Stage 3 works on the whole image at full resolution.
        x = jnp.concatenate([self.shallow3(images, shared), attended], axis=-1)
        x = canvas.mask(self.concat23(x))
        x = self.orsnet(x, encoded2, decoded2, shared)
        restored3 = self.tail(x).astype(jnp.float32) + images
        return [restored3, restored2, restored1]


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, dict]:
    """Returns the network's graph and the shapes of its parameters, a nested dict."""
    graph, shapes = _abstract_model(astuple(config))
    return graph, jax.tree.map(lambda shape: shape, shapes)  # a new dict for each caller


@functools.cache
def _abstract_model(fields: tuple) -> tuple[nnx.GraphDef, dict]:
    def model() -> MPRNet:
        # The values do not matter, so all parameters get one key: tracing a new key for each would
        # take seconds.
        key = jax.random.key(0)
        rngs: Any = SimpleNamespace(params=lambda: key)
        return MPRNet(ModelConfig(*fields), rngs=rngs)

    graph, variables = nnx.split(nnx.eval_shape(model), nnx.Param)
    return graph, nnx.to_pure_dict(variables)


def with_params(config: ModelConfig, params: dict) -> MPRNet:
    """Returns the network with these parameters, a nested dict of float32 arrays."""
    model = nnx.merge(abstract_model(config)[0], params)
    model.config = config  # not the one that all networks of the cached graph would share
    return model


def pure_functions(config: ModelConfig) -> tuple[Callable, Callable]:
    """Returns the network as pure functions of its parameters, a nested dict of float32 arrays.

    Returns:
        `init(seed) -> params`, drawn on the host, and `apply(params, images, **options)`, which
        returns the stages' images; see `MPRNet.__call__`.
    """
    graph, shapes = abstract_model(config)

    def apply(params: dict, images: jax.Array, **options) -> list[jax.Array]:
        return nnx.merge(graph, params)(images, **options)

    return functools.partial(init_params, shapes), apply


def check_images(images: jax.Array) -> None:
    """Raises ValueError unless the images are [B, H, W, 3] floats with H and W multiples of 8."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have shape {images.shape}: must be [batch, height, width, 3]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images have dtype {images.dtype}: must be floats in [0, 1]")
    for axis, name in ((ROWS, "height"), (COLUMNS, "width")):
        size = images.shape[axis]
        if size == 0 or size % SIZE_MULTIPLE:
            raise ValueError(
                f"{name}={size} is not a positive multiple of {SIZE_MULTIPLE}: "
                "pad the images (Restorer does it) or crop them"
            )
