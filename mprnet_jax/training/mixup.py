"""Mixup (Zhang et al., 2018), on the device: pairs blended with other pairs of their batch."""

import jax
import jax.numpy as jnp

from mprnet_jax.training.step import to_float

ALPHA = 0.6  # of the Beta distribution of the weights


def mixup(
    degraded: jax.Array, target: jax.Array, step: jax.Array, *, seed: int, from_step: int
) -> tuple[jax.Array, jax.Array]:
    """Blends each pair with a random other one, input and target with one weight.

    What is drawn is a function of `seed` and `step` alone, so a resumed run draws the same.

    Args:
        degraded: [B, H, W, 3], uint8 or floats in [0, 1].
        target: likewise.
        step: optimizer steps taken so far.
        seed: of the run.
        from_step: before this step the pairs stay as they are.

    Returns:
        The blends of both, floats.
    """
    pairing, weighing = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    count = len(degraded)
    partner = jax.random.permutation(pairing, count)
    drawn = jax.random.beta(weighing, ALPHA, ALPHA, (count, 1, 1, 1))
    weight = jnp.where(step >= from_step, drawn, 1)

    def blend(images: jax.Array) -> jax.Array:
        # Partners are exchanged between devices as the uint8 that they are.
        return weight * to_float(images) + (1 - weight) * to_float(images[partner])

    return blend(degraded), blend(target)
