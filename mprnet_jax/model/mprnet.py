"""MPRNet: encoder-decoders on patches, then a network at full resolution (paper, figure 2).

The patches of an image follow each other on the batch axis: an image split in two becomes two
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
    SAM,
    ShallowFeatures,
    Shared,
    conv3x3,
)
from mprnet_jax.model.pooling import global_mean
from mprnet_jax.model.stages import Stage, stages_of
from mprnet_jax.model.subnets import Decoder, Encoder, Levels, ORSNet

__all__ = ["MPRNet", "pure_functions", "with_params"]


def unconstrained(maps: jax.Array, num_patches: int) -> jax.Array:
    """Default of `constrain`: does nothing."""
    return maps


class MPRNet(nnx.Module):
    """The network of "Multi-Stage Progressive Image Restoration" (Zamir et al., CVPR 2021).

    Each stage computes shallow features and refines them in a U-Net or an ORSNet. A SAM makes its
    image and attended features, which the next stage joins to its shallow features by a
    convolution. In the last stage, a convolution makes the image.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        self.config = config
        # One slope for the PReLUs of all CABs.
        self.slope = nnx.Param(jnp.full((1,), SLOPE, jnp.float32))
        for stage in stages_of(config):
            for name, module in stage_modules(stage, config, rngs).items():
                setattr(self, name, module)

    def __call__(
        self,
        images: jax.Array,
        stages: int | None = None,
        pool: Callable[[jax.Array, Canvas], jax.Array] = global_mean,
        constrain: Callable[[jax.Array, int], jax.Array] = unconstrained,
        sizes: jax.Array | None = None,
    ) -> list[jax.Array]:
        """Restores degraded images.

        Args:
            images: [B, H, W, 3] floats in [0, 1]; H and W multiples of 8.
            stages: number of stages to compute; None computes all.
            pool: `pool(maps, canvas)` averages maps [b, h, w, c] for channel attention. The result
                is [b, 1, 1, c], or has h rows, w columns or both if means differ along them.
            constrain: `constrain(maps, num_patches)` constrains the sharding of maps after a split
                or join; `num_patches` is the number of patches per image after it.
            sizes: int32 [B, 2], height and width of each image, multiples of 8, if images lie in
                the upper left corner of larger arrays; see `Canvas`. Input pixels outside the
                images may hold any finite values (not NaN or inf). Ignore output pixels there.

        Returns:
            The images of the computed stages, the last of them first, each [B, H, W, 3] float32 and
            not clipped.

        Raises:
            ValueError: if the images' shape or dtype or the number of stages is not as above.
        """
        check_images(images)
        plan = stages_of(self.config)
        if stages is not None and stages not in range(1, len(plan) + 1):
            raise ValueError(f"stages={stages}: must be 1 to {len(plan)}")
        height, width = images.shape[1:3]
        canvas = Canvas(height, width, sizes)
        shared = Shared(self.slope[...], canvas, pool)

        def join(maps: jax.Array, num_patches: int, num_joined: int) -> jax.Array:
            while num_patches > num_joined:
                axis = COLUMNS if num_patches == 4 else ROWS
                num_patches //= 2
                maps = constrain(canvas.join(maps, axis), num_patches)
            return maps

        images = constrain(canvas.mask(images.astype(jnp.float32)), 1)
        halves = constrain(canvas.split(images, ROWS), 2)
        quadrants = constrain(canvas.split(halves, COLUMNS), 4)
        patches = {1: images, 2: halves, 4: quadrants}

        restored: list[jax.Array] = []
        attended = None  # features of the stage before, for the next stage's input
        levels: tuple[Levels, ...] = ()  # features of the stage before, for CSFF
        module = functools.partial(getattr, self)  # by its name
        for stage in plan[:stages]:
            x = module(stage.shallow)(patches[stage.num_patches], shared)
            if attended is not None:
                x = jnp.concatenate([x, attended], axis=-1)
                x = canvas.mask(module(stage.concat)(x))
            before = levels if stage.has_csff else ()
            if stage.subnet == "unet":
                encoded = module(stage.encoder)(x, shared, before)
                encoded = tuple(join(e, stage.num_patches, stage.num_joined) for e in encoded)
                decoded = module(stage.decoder)(encoded, shared)
                x, levels = decoded[0], (encoded, decoded)
            else:
                refined = module(stage.orsnet)(x, shared, before)
                refined = tuple(join(r, stage.num_patches, stage.num_joined) for r in refined)
                x, levels = refined[-1], (refined,)
            if stage.is_last:
                image = module(stage.head)(x).astype(jnp.float32) + images
            else:
                attended, image = module(stage.head)(x, patches[stage.num_joined], shared)
            restored.append(join(image, stage.num_joined, 1))
        return restored[::-1]


def stage_modules(stage: Stage, config: ModelConfig, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    """Returns the modules of a stage by their names in the network."""
    channels = stage.channels
    modules: dict[str, nnx.Module] = {}
    if stage.previous:
        modules[stage.shallow] = ShallowFeatures(config.width, config, rngs=rngs)
        c_in = config.width + stage.previous_channels
        modules[stage.concat] = conv3x3(c_in, channels, config, rngs)
    else:
        modules[stage.shallow] = ShallowFeatures(channels, config, rngs=rngs)
    if stage.subnet == "unet":
        modules[stage.encoder] = Encoder(config, csff=stage.has_csff, rngs=rngs)
        modules[stage.decoder] = Decoder(config, rngs=rngs)
    else:
        csff_from = stage.previous if stage.has_csff else ""
        modules[stage.orsnet] = ORSNet(config, csff_from=csff_from, rngs=rngs)
    if stage.is_last:
        modules[stage.head] = conv3x3(channels, 3, config, rngs)
    else:
        modules[stage.head] = SAM(channels, config, rngs=rngs)
    return modules


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
    model.config = config  # its own; the cached graph has one that all networks would share
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
