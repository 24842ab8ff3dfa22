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
from mprnet_jax.weights.packing import join, pack, split, unpack

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
        donates the state. The batch has "unreadable" too, bool [B]. The metrics are those of
        `train_step`, "learning_rate", and "unreadable", the number of examples where that is true.
    """
    apply = build_apply(config.model, mesh)
    if uses_flat_params(mesh):
        apply = apply_with_flat_params(apply, replicated_abstract(params, mesh))
        params = join(params)
    optimizer = make_optimizer(config.optim, config.total_steps)
    learning_rate = schedule(config.optim, config.total_steps)
    mix = None
    if config.data.mixup_from_step:
        mix = functools.partial(mixup, seed=config.seed, from_step=config.data.mixup_from_step)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new_state, metrics = train_step(
            state,
            batch,
            apply=apply,
            optimizer=optimizer,
            loss=config.loss,
            optim=config.optim,
            accumulate=config.accumulate,
            mixup=mix,
        )
        metrics["learning_rate"] = learning_rate(state.step)
        return new_state, metrics | {"unreadable": jnp.sum(batch["unreadable"])}

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


def uses_flat_params(mesh: Mesh) -> bool:
    """Returns whether the training state on this mesh holds the parameters as one flat vector.

    With hundreds of parameter arrays the compiled step is about twice as large. On TPUs slicing a
    flat vector forces layout changes that cost more, so it stays a tree there.
    """
    return mesh.devices.flat[0].platform != "tpu"


def apply_with_flat_params(apply: Apply, abstract_params: Any) -> Apply:
    """Returns `apply` that takes a flat vector of parameters of these shapes."""
    return lambda vector, *args, **options: apply(split(vector, abstract_params), *args, **options)


def convert_params(params: Any, like: Any) -> Any:
    """Returns parameters on devices in the form of `like`.

    Args:
        params: a nested dict of arrays, or a flat vector.
        like: shapes, dtypes and shardings of the result, a nested dict or a flat vector.
    """
    if isinstance(params, dict) == isinstance(like, dict):
        return params
    return unpack(pack(params), like)


def nested_params(params: Any, abstract_params: Any) -> Any:
    """Returns parameters as a nested dict: views of a flat vector's copy on the host, or as given.

    Args:
        params: a nested dict of arrays, or a flat vector.
        abstract_params: shapes of the parameters, a nested dict.
    """
    if isinstance(params, jax.Array):
        return split(jax.device_get(params), abstract_params)
    return params


def replicated_abstract(tree: Any, mesh: Mesh) -> Any:
    """Returns shapes and dtypes of a pytree's arrays, with the replicated sharding of a mesh.

    The leaves of the result are `jax.ShapeDtypeStruct`.
    """
    sharding = meshes.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
