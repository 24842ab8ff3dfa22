"""Mixup (Zhang et al., 2018) on the device: blends pairs with other pairs of their batch."""

import jax
import jax.numpy as jnp

from mprnet_jax.training.step import to_float

ALPHA = 0.6  # of the Beta distribution of the weights


def mixup(
    degraded: jax.Array, target: jax.Array, step: jax.Array, *, seed: int, from_step: int
) -> tuple[jax.Array, jax.Array]:
    """Blends each pair with a random pair of the batch, input and target with the same weight.

    The random numbers depend on `seed` and `step` alone, so a resumed run draws the same.

    Args:
        degraded: [B, H, W, 3], integers or floats in [0, 1].
        target: of the same shape and range.
        step: number of optimizer steps so far.
        seed: of the run.
        from_step: before this step nothing is blended.

    Returns:
        The blended images of both, floats in [0, 1].
    """
    pairing, weighing = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    count = len(degraded)
    partner = jax.random.permutation(pairing, count)
    drawn = jax.random.beta(weighing, ALPHA, ALPHA, (count, 1, 1, 1))
    weight = jnp.where(step >= from_step, drawn, 1)

    def blend(images: jax.Array) -> jax.Array:
        # Indexed before the conversion, so that devices exchange integers.
        return weight * to_float(images) + (1 - weight) * to_float(images[partner])

    return blend(degraded), blend(target)
