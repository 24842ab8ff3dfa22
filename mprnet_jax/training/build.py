"""Builds the jitted functions of a run from its config. Benchmarks and tests use them too."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mprnet_jax.config import ModelConfig, TrainConfig
from mprnet_jax.devices import compiling
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.mixup import mixup
from mprnet_jax.training.optimizer import make_optimizer, schedule
from mprnet_jax.training.state import TrainState, create_state
from mprnet_jax.training.step import Apply, Batch, Metrics, train_step, validation_step
from mprnet_jax.weights.packing import join, split

InitState = Callable[[], TrainState]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def build_train_step(
    config: TrainConfig, mesh: Mesh, params: Any, jit: Callable = compiling.jit
) -> tuple[InitState, Step]:
    """Builds the training step and its initial state.

    Args:
        config: of the run.
        mesh: the devices that the step runs on.
        params: to start from, a nested dict of arrays on the host.
        jit: `jax.jit` or like it.

    Returns:
        `init_state() -> state` and `step(state, batch) -> (state, metrics)`, both jitted. The step
        donates the state. Its metrics are those of `train_step`, "learning_rate", and "unreadable",
        the number of examples for which that is true in the batch.
    """
    apply = build_apply(config.model, mesh)
    if joins_params(mesh):
        apply, params = apply_to_vector(apply, replicated_shapes(params, mesh)), join(params)
    optimizer = make_optimizer(config.optim, config.total_steps)
    learning_rate = schedule(config.optim, config.total_steps)
    mix = None
    if config.data.mixup_from_step:
        mix = functools.partial(mixup, seed=config.seed, from_step=config.data.mixup_from_step)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        after, metrics = train_step(
            state,
            batch,
            apply=apply,
            optimizer=optimizer,
            loss=config.loss,
            optim=config.optim,
            accumulate=config.accumulate,
            mix=mix,
        )
        metrics["learning_rate"] = learning_rate(state.step)
        return after, metrics | {"unreadable": jnp.sum(batch["unreadable"])}

    # Jitted, since a thousand small programs for the optimizer's arrays take a second.
    create = jax.jit(
        functools.partial(create_state, optimizer=optimizer, config=config.optim),
        out_shardings=meshes.replicated(mesh),
    )
    init_state = functools.partial(create, params)
    return init_state, jit(step, out_shardings=meshes.replicated(mesh), donate_argnums=0)


def build_validation_step(
    config: TrainConfig, mesh: Mesh, jit: Callable = compiling.jit
) -> jax.stages.Wrapped:
    """Builds the jitted `validation_step(params, batch)`; `params` are a nested dict of arrays."""
    step = functools.partial(validation_step, apply=build_apply(config.model, mesh))
    return jit(step, out_shardings=meshes.replicated(mesh))


def build_apply(config: ModelConfig, mesh: Mesh) -> Apply:
    """Returns `apply(params, images)` of the network, with its maps sharded over the mesh."""
    _, apply = pure_functions(config)
    return functools.partial(apply, constrain=meshes.sharding_constraint(mesh))


def joins_params(mesh: Mesh) -> bool:
    """Whether the training state on this mesh holds the parameters as one vector.

    A step on hundreds of arrays is twice the program to compile. Not on TPUs: they change the
    layout of all that is sliced out of a vector, which costs more.
    """
    return mesh.devices.flat[0].platform != "tpu"


def apply_to_vector(apply: Apply, shapes: Any) -> Apply:
    """Returns `apply` for parameters of these shapes that are joined into one vector."""
    return lambda vector, *args, **options: apply(split(vector, shapes), *args, **options)


def replicated_shapes(tree: Any, mesh: Mesh) -> Any:
    """Returns the shapes and dtypes of a pytree, with the sharding of arrays on every device."""
    sharding = meshes.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
