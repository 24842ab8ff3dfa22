"""The losses of the paper, section 3, on [B, H, W, 3] float32 images in [0, 1]."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mprnet_jax.config import LossConfig

EPSILON = 1e-3  # of the Charbonnier penalty (paper, equation 2)
GAUSSIAN = (0.05, 0.25, 0.4, 0.25, 0.05)  # of the pyramid of Burt and Adelson, 1983


def charbonnier(difference: jax.Array) -> jax.Array:
    """Mean of sqrt(d^2 + eps^2), a smooth absolute value (paper, equation 2)."""
    return jnp.mean(jnp.sqrt(jnp.square(difference) + EPSILON**2))


def _blur(x: jax.Array) -> jax.Array:
    """Gaussian of 5x5, borders replicated."""
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pad, mode="edge")
        x = sum(
            weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, weight in enumerate(GAUSSIAN)
        )
    return x


def laplacian_pyramid(x: jax.Array) -> jax.Array:
    """What one step of a Laplacian pyramid leaves: the image less its blurred half-size version.

    This is the edge map that the published weights were trained with.
    """
    even = 4 * _blur(x)[:, ::2, ::2]
    # Zeros between the pixels, and after the last where the size is even.
    gaps = [(0, (size + 1) % 2, 1) for size in x.shape[1:3]]
    spread = jax.lax.pad(even, jnp.zeros((), x.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
    return x - _blur(spread)


def laplacian_operator(x: jax.Array) -> jax.Array:
    """Second differences summed, borders replicated: the edge map that the paper's text names."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    vertical = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    horizontal = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return vertical + horizontal - 4 * x


LAPLACIANS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "pyramid": laplacian_pyramid,
    "operator": laplacian_operator,
}


def stage_loss(restored: jax.Array, target: jax.Array, config: LossConfig) -> jax.Array:
    """Charbonnier plus weighted edge loss of one stage (paper, equations 1 to 3), a scalar.

    The Laplacian is linear, so the edge loss takes it of the difference, once.
    """
    difference = (jnp.clip(restored, 0, 1) if config.clip else restored) - target
    loss = charbonnier(difference)
    if config.edge_weight:
        edges = LAPLACIANS[config.laplacian](difference)
        loss += config.edge_weight * charbonnier(edges)
    return loss


def stage_losses(
    stages: Sequence[jax.Array], target: jax.Array, config: LossConfig
) -> list[jax.Array]:
    """The loss of each stage's images, in the order given; training minimises their sum."""
    loss = functools.partial(stage_loss, target=target, config=config)
    return list(jax.vmap(loss)(jnp.stack(stages)))
