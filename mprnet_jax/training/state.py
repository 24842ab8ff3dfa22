"""Everything that a training step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mprnet_jax.config import OptimConfig

__all__ = ["TrainState", "create_state"]

SPIKE_WINDOW = 64  # number of gradient norms that spikes are compared with


@flax.struct.dataclass
class TrainState:
    """The state of a training run at one step; a pytree."""

    step: jax.Array  # updates so far, int32
    params: Any  # float32: one vector (`weights.packing.join`), or a pytree of arrays
    opt_state: optax.OptState
    ema: Any = None  # moving average of `params`, if the config asks for one
    norms: jax.Array | None = None  # norms of the last gradients, if spikes are skipped

    @property
    def eval_params(self) -> Any:
        """The parameters that are validated and exported: the moving average if there is one."""
        return self.params if self.ema is None else self.ema

    def without_eval_params(self) -> dict[str, Any]:
        """Returns all fields in use but `eval_params`: a checkpoint's training state."""
        left_out = "params" if self.ema is None else "ema"
        fields = {name: value for name, value in vars(self).items() if name != left_out}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def with_eval_params(cls, eval_params: Any, fields: dict[str, Any]) -> "TrainState":
        """Returns the state from `eval_params` and the fields of `without_eval_params`."""
        name = "ema" if "params" in fields else "params"
        return cls(**{name: eval_params}, **fields)


def create_state(
    params: Any, optimizer: optax.GradientTransformation, config: OptimConfig
) -> TrainState:
    """Returns the state before the first step.

    Args:
        params: to start from.
        optimizer: whose state is created.
        config: says whether the state has a moving average and norms.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.array, params) if config.ema_decay else None,
        norms=jnp.full(SPIKE_WINDOW, jnp.inf) if config.spike_factor else None,
    )
