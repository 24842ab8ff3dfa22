"""The losses of the paper, section 3. Images are [B, H, W, 3], float32 in [0, 1]."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mprnet_jax.config import LossConfig

__all__ = ["charbonnier", "laplacian_operator", "laplacian_pyramid", "stage_loss", "stage_losses"]

EPSILON = 1e-3  # of the Charbonnier penalty (paper, equation 2)
GAUSSIAN = (0.05, 0.25, 0.4, 0.25, 0.05)  # of the pyramid of Burt and Adelson, 1983


def charbonnier(difference: jax.Array) -> jax.Array:
    """Returns the mean of sqrt(d^2 + eps^2), a smooth absolute value (paper, equation 2)."""
    return jnp.mean(jnp.sqrt(jnp.square(difference) + EPSILON**2))


def _blur(x: jax.Array) -> jax.Array:
    """Applies a 5x5 Gaussian; borders are replicated."""
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pad, mode="edge")
        blurred = sum(
            weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, weight in enumerate(GAUSSIAN)
        )
        x = jnp.asarray(blurred)
    return x


def laplacian_pyramid(x: jax.Array) -> jax.Array:
    """Returns the finest level of a Laplacian pyramid, the edge map of the official weights.

    That is the image minus its blurred half-size version.
    """
    even = 4 * _blur(x)[:, ::2, ::2]
    # Zeros between the pixels, and after the last one if the size is even.
    gaps = [(0, (size + 1) % 2, 1) for size in x.shape[1:3]]
    spread = jax.lax.pad(even, jnp.zeros((), x.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
    return x - _blur(spread)


def laplacian_operator(x: jax.Array) -> jax.Array:
    """Returns the Laplacian of an image, borders replicated: the edge map of the paper's text."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    vertical = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    horizontal = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return vertical + horizontal - 4 * x


LAPLACIANS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "pyramid": laplacian_pyramid,
    "operator": laplacian_operator,
}


def stage_loss(restored: jax.Array, target: jax.Array, config: LossConfig) -> jax.Array:
    """Returns the Charbonnier plus weighted edge loss of one stage (paper, equations 1 to 3).

    The Laplacian is linear, so the edge loss applies it once, to the difference.
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
    """Returns the loss of each stage's images; training minimises their sum."""
    loss = functools.partial(stage_loss, target=target, config=config)
    return list(jax.vmap(loss)(jnp.stack(stages)))
