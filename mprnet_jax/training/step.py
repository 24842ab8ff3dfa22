"""One training step and one validation step, as pure functions of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mprnet_jax.config import LossConfig, OptimConfig
from mprnet_jax.training.losses import stage_losses
from mprnet_jax.training.state import TrainState
from mprnet_jax.weights.packing import split

Batch = dict[str, jax.Array]  # "degraded" and "target", [B, H, W, 3], uint8 or floats in [0, 1]
Metrics = dict[str, jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]; floats pass."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def of_vector(apply: Callable[..., list[jax.Array]], shapes: Any) -> Callable:
    """`apply(params, images)` for `params` of these shapes that are joined to one vector.

    A step that handles hundreds of arrays is twice the program. Not for TPUs: whatever they take
    from a vector they lay out anew, which costs more.
    """
    return lambda vector, *args, **options: apply(split(vector, shapes), *args, **options)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    apply: Callable[..., list[jax.Array]],
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    optim: OptimConfig | None = None,
    accumulate: int = 1,
    mix: Mix | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer, which changes nothing if its loss or gradient is not finite.

    Args:
        state: where the run is.
        batch: the step's patches.
        apply: `apply(params, images) -> [stage 3, stage 2, stage 1]`; see `of_vector`.
        optimizer: what turns gradients into updates.
        loss: which loss.
        optim: the moving average of parameters, and which gradients are skipped as spikes.
        accumulate: number of equal parts of the batch whose gradients are computed in turn.
        mix: `mix(degraded, target, step)` changes the patches first, as mixup does. It gets them
            as they are in the batch.

    Returns:
        The next state and scalars: "loss", "loss_stage1" to "loss_stage3", "gradient_norm", and
        "skipped", 1 for a step that changed nothing.
    """
    optim = optim or OptimConfig()
    degraded, target = batch["degraded"], batch["target"]
    if mix is not None:
        degraded, target = mix(degraded, target, state.step)
    degraded, target = to_float(degraded), to_float(target)

    def total(params: Any, degraded: jax.Array, target: jax.Array) -> tuple[jax.Array, list]:
        losses = stage_losses(apply(params, degraded), target, loss)
        return sum(losses), losses

    gradient = jax.value_and_grad(total, has_aux=True)
    (value, losses), gradients = averaged(gradient, accumulate)(state.params, degraded, target)
    norm = optax.tree.norm(gradients)
    after = updated(state, gradients, norm, optimizer, optim)
    sound = jnp.isfinite(value) & jnp.isfinite(norm)
    if optim.spike_factor:
        # The median is infinite, which nothing exceeds, until half of the window is full.
        sound &= ~(norm > optim.spike_factor * jnp.median(state.norms))
    after = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, state)

    metrics = {f"loss_stage{3 - i}": stage for i, stage in enumerate(losses)}
    metrics |= {"loss": value, "gradient_norm": norm, "skipped": 1 - sound.astype(jnp.int32)}
    return after, metrics


def updated(
    state: TrainState,
    gradients: Any,
    norm: jax.Array,
    optimizer: optax.GradientTransformation,
    optim: OptimConfig,
) -> TrainState:
    """The state after an update with these gradients, whose global norm is given."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, norms = state.ema, state.norms
    if ema is not None:
        # At first a shorter memory, or the random start would linger.
        decay = jnp.minimum(optim.ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, ema, 1 - decay)
    if norms is not None:
        norms = norms.at[state.step % len(norms)].set(norm)
    return TrainState(state.step + 1, params, opt_state, ema, norms)


def averaged(function: Callable, parts: int) -> Callable:
    """`function(params, *images)`, averaged over equal parts of the batch, computed in turn."""
    if parts == 1:
        return function

    def run(params: Any, *images: jax.Array) -> Any:
        # Strided parts, so that each part lies on all devices as the batch does.
        cut = [x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for x in images]
        shapes = jax.eval_shape(function, params, *(x[0] for x in cut))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(sums: Any, part: list[jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, function(params, *part)), None

        sums, _ = jax.lax.scan(add, start, cut)
        return jax.tree.map(lambda x: x / parts, sums)

    return run


def psnr(restored: jax.Array, target: jax.Array) -> jax.Array:
    """PSNR in dB of each image, [B], both [B, H, W, 3] in [0, 1] and clipped to it."""
    error = jnp.clip(restored, 0, 1) - jnp.clip(target, 0, 1)
    return -10 * jnp.log10(jnp.maximum(jnp.mean(jnp.square(error), axis=(1, 2, 3)), 1e-10))


def validation_step(params: Any, batch: Batch, *, apply: Callable[..., list[jax.Array]]) -> dict:
    """Restores a batch and scores it.

    Returns:
        "psnr": [4, B] dB of the degraded images and of stages 1, 2, 3, in this order;
        "images": the stage images [3, B, H, W, 3], stage 1 first.
    """
    degraded, target = to_float(batch["degraded"]), to_float(batch["target"])
    stages = apply(params, degraded)[::-1]
    scores = jnp.stack([psnr(images, target) for images in (degraded, *stages)])
    return {"psnr": scores, "images": jnp.stack(stages)}
