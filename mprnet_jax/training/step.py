"""One training step and one validation step, as pure functions of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mprnet_jax.config import LossConfig, OptimConfig
from mprnet_jax.training.losses import stage_losses
from mprnet_jax.training.state import TrainState

# "degraded" and "target", [B, H, W, 3], uint8 or floats in [0, 1]; maybe more.
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Apply = Callable[..., list[jax.Array]]


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 images to float32 in [0, 1]; floats are returned as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    optim: OptimConfig | None = None,
    accumulate: int = 1,
    mix: Mix | None = None,
) -> tuple[TrainState, Metrics]:
    """Takes one optimizer step; skips it if the loss or the gradient is not finite.

    Args:
        state: before the step.
        batch: of patches.
        apply: `apply(params, images) -> [stage 3, stage 2, stage 1]`.
        optimizer: transforms gradients into updates.
        loss: settings of the loss.
        optim: settings of the moving average and of spikes; by default there is neither.
        accumulate: number of equal parts of the batch whose gradients are computed one after
            another.
        mix: `mix(degraded, target, step)` blends the patches of the batch first, as mixup does.

    Returns:
        The next state and scalars: "loss", "loss_stage1" to "loss_stage3", "gradient_norm", and
        "skipped", which is 1 if the state has not changed.
    """
    optim = optim or OptimConfig()
    degraded, target = batch["degraded"], batch["target"]
    if mix is not None:
        degraded, target = mix(degraded, target, state.step)
    degraded, target = to_float(degraded), to_float(target)

    def total(params: Any, degraded: jax.Array, target: jax.Array) -> tuple[jax.Array, list]:
        losses = stage_losses(apply(params, degraded), target, loss)
        return jnp.asarray(sum(losses)), losses

    gradient = jax.value_and_grad(total, has_aux=True)
    (value, losses), gradients = accumulate_gradients(gradient, accumulate)(
        state.params, degraded, target
    )
    norm = optax.tree.norm(gradients)
    after = apply_gradients(state, gradients, norm, optimizer, optim)
    sound = jnp.isfinite(value) & jnp.isfinite(norm)
    if state.norms is not None:
        # Until half of the window is filled, the median is infinite and nothing is a spike.
        sound &= ~(norm > optim.spike_factor * jnp.median(state.norms))
    after = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, state)

    metrics = {f"loss_stage{3 - i}": stage for i, stage in enumerate(losses)}
    metrics |= {"loss": value, "gradient_norm": norm, "skipped": 1 - sound.astype(jnp.int32)}
    return after, metrics


def apply_gradients(
    state: TrainState,
    gradients: Any,
    norm: jax.Array,
    optimizer: optax.GradientTransformation,
    optim: OptimConfig,
) -> TrainState:
    """Returns the state after an update with gradients, whose global norm is `norm`."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, norms = state.ema, state.norms
    if ema is not None:
        # A smaller decay at first, so that the random start does not linger in the average.
        decay = jnp.minimum(optim.ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, ema, 1 - decay)
    if norms is not None:
        norms = norms.at[state.step % len(norms)].set(norm)
    return TrainState(state.step + 1, params, opt_state, ema, norms)


def accumulate_gradients(gradient: Callable, parts: int) -> Callable:
    """Returns `gradient` averaged over parts of the batch, which takes less memory.

    Args:
        gradient: `gradient(params, *images)`, a pytree of means over images [B, H, W, C].
        parts: number of equal parts, computed one after another.
    """
    if parts == 1:
        return gradient

    def average(params: Any, *images: jax.Array) -> Any:
        # Strided parts, so that each part is sharded over all devices as the batch is.
        split = [x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for x in images]
        shapes = jax.eval_shape(gradient, params, *(x[0] for x in split))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(sums: Any, part: list[jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradient(params, *part)), None

        sums, _ = jax.lax.scan(add, zeros, split)
        return jax.tree.map(lambda x: x / parts, sums)

    return average


def psnr(restored: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the PSNR in dB of each image, [B]. Images are [B, H, W, 3], clipped to [0, 1]."""
    error = jnp.clip(restored, 0, 1) - jnp.clip(target, 0, 1)
    return -10 * jnp.log10(jnp.maximum(jnp.mean(jnp.square(error), axis=(1, 2, 3)), 1e-10))


def validation_step(params: Any, batch: Batch, *, apply: Apply) -> dict[str, jax.Array]:
    """Restores a batch and computes its scores.

    Returns:
        "psnr": [4, B] in dB, of the degraded images and of stages 1, 2, 3, in this order;
        "images": [3, B, H, W, 3], the stages' images, stage 1 first.
    """
    degraded, target = to_float(batch["degraded"]), to_float(batch["target"])
    stages = apply(params, degraded)[::-1]
    scores = jnp.stack([psnr(images, target) for images in (degraded, *stages)])
    return {"psnr": scores, "images": jnp.stack(stages)}
