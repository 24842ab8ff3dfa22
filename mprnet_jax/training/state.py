"""Everything that a training step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """A point of a training run; a pytree."""

    step: jax.Array  # optimizer steps taken so far, int32
    params: Any  # nested dict of float32 arrays
    opt_state: optax.OptState


def create_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
