"""MPRNet: encoder-decoders on patches, then a network at full resolution (paper, figure 2).

The patches of stages 1 and 2 ride on the batch axis: an image cut in two becomes two images. Where
the paper's text and the published weights disagree, this follows the weights (bilinear resizing in
place of max pooling).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mprnet_jax.config import SIZE_MULTIPLE, ModelConfig
from mprnet_jax.model.canvas import COLUMNS, ROWS, Canvas
from mprnet_jax.model.layers import (
    CAB,
    SAM,
    CABs,
    Down,
    Shared,
    Up,
    chain,
    conv1x1,
    conv3x3,
    upsample2x,
)
from mprnet_jax.model.pooling import global_mean

Levels = tuple[jax.Array, jax.Array, jax.Array]  # features at 1, 1/2 and 1/4 of the resolution


def unconstrained(maps: jax.Array, pieces: int) -> jax.Array:
    """Leaves it to the compiler where maps lie."""
    return maps


class ShallowFeatures(nnx.Module):
    """From an image to features: one 3x3 convolution and one CAB."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.conv = conv3x3(3, config.width, config, rngs)
        self.cab = CAB(config.width, config, rngs=rngs)

    def __call__(self, images: jax.Array, shared: Shared) -> jax.Array:
        return self.cab(shared.canvas.clear(self.conv(images)), shared)


class CSFF(nnx.Module):
    """Cross-stage feature fusion at one level (paper, section 3.3)."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.encoder = conv1x1(channels, channels, config, rngs)
        self.decoder = conv1x1(channels, channels, config, rngs)

    def __call__(self, encoded: jax.Array, decoded: jax.Array) -> jax.Array:
        return self.encoder(encoded) + self.decoder(decoded)


class Encoder(nnx.Module):
    """The contracting half of a U-Net; with `fuses`, cross-stage features join at each level."""

    def __init__(self, config: ModelConfig, *, fuses: bool = False, rngs: nnx.Rngs):
        c1, c2, c3 = widths = config.level_widths
        self.level1 = CABs(2, c1, config, rngs=rngs)
        self.level2 = CABs(2, c2, config, rngs=rngs)
        self.level3 = CABs(2, c3, config, rngs=rngs)
        self.down12 = Down(c1, c2, config, rngs=rngs)
        self.down23 = Down(c2, c3, config, rngs=rngs)
        self.csff = nnx.List([CSFF(c, config, rngs=rngs) for c in widths] if fuses else [])

    def __call__(
        self, x: jax.Array, shared: Shared, earlier: tuple[Levels, Levels] | None = None
    ) -> Levels:
        """Features [B, H, W, f] -> three levels; `earlier` is what stage 1 encoded and decoded."""

        def fuse(x: jax.Array, level: int) -> jax.Array:
            if earlier is None:
                return x
            encoded, decoded = earlier
            return x + shared.canvas.clear(self.csff[level](encoded[level], decoded[level]))

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
        e1, e2, e3 = encoded
        d3 = self.level3(e3, shared)
        d2 = self.level2(self.up32(d3, shared) + self.skip2(e2, shared), shared)
        d1 = self.level1(self.up21(d2, shared) + self.skip1(e1, shared), shared)
        return d1, d2, d3


class ORB(nnx.Module):
    """Original-resolution block: CABs in a row, a 3x3 convolution, and the input added.

    The convolution never has a bias.
    """

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.body = CABs(config.cabs_per_orb, channels, config, rngs=rngs)
        self.conv = conv3x3(channels, channels, dataclasses.replace(config, bias=False), rngs)

    def __call__(self, x: jax.Array, shared: Shared) -> jax.Array:
        return shared.canvas.clear(self.conv(self.body(x, shared))) + x


class Lift(nnx.Module):
    """Carries one level of an earlier stage to full resolution and to the width of ORSNet.

    Level 2 is resized once, level 3 twice; each resize has a 1x1 convolution, and one more follows.
    Convolutions commute with resizing and collapse, so `__call__` is one product with a matrix at
    the low resolution; the resizes are left to the caller, who does them once for a sum of lifts.
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
        return chain(x, *self.ups, self.conv)


class ORSNet(nnx.Module):
    """Original-resolution subnetwork: three ORBs that take in the levels of stage 2 one by one."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        channels = config.width + config.orsnet_growth
        self.orbs = nnx.List([ORB(channels, config, rngs=rngs) for _ in range(3)])
        self.encoder_lifts = nnx.List([Lift(level, config, rngs=rngs) for level in (1, 2, 3)])
        self.decoder_lifts = nnx.List([Lift(level, config, rngs=rngs) for level in (1, 2, 3)])

    def __call__(self, x: jax.Array, encoded: Levels, decoded: Levels, shared: Shared) -> jax.Array:
        for level in range(3):
            lifted = self.encoder_lifts[level](encoded[level])
            lifted += self.decoder_lifts[level](decoded[level])
            lifted = shared.canvas.clear(lifted)
            for _ in range(level):
                lifted = upsample2x(lifted, shared.canvas)
            x = self.orbs[level](x, shared) + lifted
        return x


class MPRNet(nnx.Module):
    """The network of "Multi-Stage Progressive Image Restoration" (Zamir et al., CVPR 2021)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        f, f3 = config.width, config.width + config.orsnet_growth
        self.config = config
        self.slope = nnx.Param(
            jnp.full((1,), 0.25, jnp.float32)
        )  # of every PReLU: one number for all CABs
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
            stages: how many stages to compute: 1, 2 or 3.
            pool: `pool(maps, canvas)` is what channel attention averages maps [b, h, w, c] with.
            constrain: `constrain(maps, pieces)` lays out maps on several devices that were just
                split or joined, so that there are so many pieces of each image.
            sizes: int32 [B, 2], height and width of each image, multiples of 8, where images lie in
                the upper left corner of larger arrays; so one program serves all sizes. Elsewhere
                the arrays may hold any finite numbers, and the results mean nothing.

        Returns:
            The stages' images, each [B, H, W, 3] float32 and not clipped, the last stage first.

        Raises:
            ValueError: for another shape or number of stages.
        """
        check_images(images)
        if stages not in (1, 2, 3):
            raise ValueError(f"stages={stages}: must be 1, 2 or 3")
        canvas = Canvas(*images.shape[1:3], sizes)
        shared = Shared(self.slope[...], canvas, pool)
        images = constrain(canvas.clear(images.astype(jnp.float32)), 1)
        halves = constrain(canvas.split(images, ROWS), 2)
        quadrants = constrain(canvas.split(halves, COLUMNS), 4)

        # Stage 1: encodes quadrants, decodes halves.
        encoded = self.encoder1(self.shallow1(quadrants, shared), shared)
        encoded1 = tuple(constrain(canvas.join(e, COLUMNS), 2) for e in encoded)
        decoded1 = self.decoder1(encoded1, shared)
        attended, restored = self.sam12(decoded1[0], halves, shared)
        restored1 = constrain(canvas.join(restored, ROWS), 1)
        if stages == 1:
            return [restored1]

        # Stage 2: encodes halves, decodes the whole.
        x = jnp.concatenate([self.shallow2(halves, shared), attended], axis=-1)
        encoded = self.encoder2(
            canvas.clear(self.concat12(x)), shared, earlier=(encoded1, decoded1)
        )
        encoded2 = tuple(constrain(canvas.join(e, ROWS), 1) for e in encoded)
        decoded2 = self.decoder2(encoded2, shared)
        attended, restored2 = self.sam23(decoded2[0], images, shared)
        if stages == 2:
            return [restored2, restored1]

        # Stage 3: the whole at full resolution.
        x = jnp.concatenate([self.shallow3(images, shared), attended], axis=-1)
        x = canvas.clear(self.concat23(x))
        x = self.orsnet(x, encoded2, decoded2, shared)
        restored3 = self.tail(x).astype(jnp.float32) + images
        return [restored3, restored2, restored1]


def abstract(config: ModelConfig) -> tuple[nnx.GraphDef, dict]:
    """The network without numbers: its graph, and the shapes of its parameters, a nested dict."""

    def model() -> MPRNet:
        # Only shapes count, so one key does for all: counting keys in a trace takes seconds.
        key = jax.random.key(0)
        return MPRNet(config, rngs=SimpleNamespace(params=lambda: key))

    graph, variables = nnx.split(nnx.eval_shape(model), nnx.Param)
    return graph, nnx.to_pure_dict(variables)


def with_params(config: ModelConfig, params: dict) -> MPRNet:
    """The network with these parameters, a nested dict of float32 arrays."""
    return nnx.merge(abstract(config)[0], params)


def pure_functions(config: ModelConfig) -> tuple[Callable, Callable]:
    """The network as functions of its parameters, a nested dict of float32 arrays.

    Returns:
        `init(seed) -> params`, drawn on the host, and
        `apply(params, images, **options)`, which returns the stages' images; see `MPRNet.__call__`.
    """

    graph, shapes = abstract(config)

    def apply(params: dict, images: jax.Array, **options):
        return nnx.merge(graph, params)(images, **options)

    return functools.partial(init_params, shapes), apply


def init_params(shapes: dict, seed: int) -> dict:
    """Random parameters, as PyTorch starts them: uniform in +-1/sqrt(fan_in), the slope at 0.25.

    Drawn on the host, since compiling a generator for each of them takes most of a minute, and so
    that a seed means the same on every kind of device.
    """
    rng = np.random.default_rng(seed)

    def draw(node: dict) -> dict:
        drawn = {}
        for name, child in node.items():
            if isinstance(child, dict):
                drawn[name] = draw(child)
            elif name == "slope":
                drawn[name] = np.full(child.shape, 0.25, np.float32)
            else:  # A kernel, or a bias with the fan-in of the kernel beside it.
                bound = math.prod(node["kernel"].shape[:-1]) ** -0.5
                drawn[name] = rng.uniform(-bound, bound, child.shape).astype(np.float32)
        return drawn

    return draw(shapes)


def check_images(images: jax.Array) -> None:
    """Raises ValueError unless images are [B, H, W, 3] floats with H and W multiples of 8."""
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
