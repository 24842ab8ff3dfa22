"""Everything that a training step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mprnet_jax.config import OptimConfig

SPIKE_WINDOW = 64  # steps whose gradient norms tell what is usual


@flax.struct.dataclass
class TrainState:
    """A point of a training run; a pytree."""

    step: jax.Array  # updates so far, int32
    params: Any  # float32: one vector (`weights.packing.join`), or a pytree of arrays
    opt_state: optax.OptState
    ema: Any = None  # moving average of `params`, where the config asks for one
    norms: jax.Array | None = None  # of the last gradients; where spikes are skipped

    @property
    def weights(self) -> Any:
        """What is validated and exported: the moving average if there is one."""
        return self.params if self.ema is None else self.ema


def create_state(
    params: Any, optimizer: optax.GradientTransformation, config: OptimConfig | None = None
) -> TrainState:
    """The state before the first step; `config` says whether it has a moving average and norms."""
    config = config or OptimConfig()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.array, params) if config.ema_decay else None,
        norms=jnp.full(SPIKE_WINDOW, jnp.inf) if config.spike_factor else None,
    )
