"""How channel attention gathers its statistics: the mean over a whole map."""

import jax
import jax.numpy as jnp


def global_mean(x: jax.Array) -> jax.Array:
    """Mean over rows and columns: [B, H, W, C] -> [B, 1, 1, C], summed in float32."""
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
