"""Compiles the network once for all platforms and sizes, as a function that only JAX is needed for.

`jax.export.deserialize(content).call(images)` runs it, also with versions of JAX of the following
six months (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
"""

import dataclasses
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import export

from mprnet_jax.config import SIZE_MULTIPLE, ModelConfig
from mprnet_jax.model.mprnet import with_params
from mprnet_jax.weights.names import Params

PLATFORMS = ("cpu", "cuda", "tpu")
ROWS, COLUMNS = 1, 2  # axes


def encode(
    config: ModelConfig, params: Params, stages: int | None, metadata: Mapping[str, str]
) -> bytes:
    """Returns the network as a serialized function of JAX.

    The function takes float32 images [N, H, W, 3] in [0, 1], for any N, H and W, and returns those
    of the last computed stage, not clipped. The parameters are part of it.

    Args:
        config: the network's sizes.
        params: its parameters.
        stages: number of stages to compute; None computes all.
        metadata: becomes the function's name (`fun_name`), as JSON; the format has no other place.
    """
    model = with_params(config, params)

    def mprnet(images: jax.Array) -> jax.Array:
        height, width = images.shape[ROWS:3]
        padded = pad(pad(images, ROWS), COLUMNS)
        return model(padded, stages)[0][:, :height, :width]

    shape = export.symbolic_shape("N, H, W, 3")
    exported = export.export(jax.jit(mprnet), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    named = dataclasses.replace(exported, fun_name=json.dumps(dict(metadata)))
    return bytes(named.serialize())


def pad(images: jax.Array, axis: int) -> jax.Array:
    """Pads images at the end of an axis by reflection, to a multiple of 8.

    As `restoration.restorer.pad`, for sizes that are not known yet: a short side is reflected
    repeatedly. Of a side of s pixels, pixel i of the padded one is pixel p - |p - i % 2p|, where p
    is s - 1.
    """
    last = images.shape[axis] - 1
    padded = (last // SIZE_MULTIPLE + 1) * SIZE_MULTIPLE
    period = jnp.maximum(2 * last, 1)
    indices = last - jnp.abs(last - jnp.arange(padded) % period)
    return jnp.take(images, indices, axis=axis)
