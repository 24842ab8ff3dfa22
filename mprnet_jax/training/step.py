"""One training step and one validation step, as pure functions of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mprnet_jax.config import LossConfig, OptimConfig
from mprnet_jax.training.losses import stage_losses
from mprnet_jax.training.state import TrainState

__all__ = ["train_step", "validation_step"]

# "degraded" and "target", [B, H, W, 3], uint8, uint16 or floats in [0, 1]. Other keys are ignored.
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Mixup = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Apply = Callable[..., list[jax.Array]]


def to_float(images: jax.Array) -> jax.Array:
    """Converts unsigned integer images to float32 in [0, 1]; returns others unchanged."""
    if not jnp.issubdtype(images.dtype, jnp.unsignedinteger):
        return images
    return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    optim: OptimConfig,
    accumulate: int = 1,
    mixup: Mixup | None = None,
) -> tuple[TrainState, Metrics]:
    """Takes one optimizer step, unless it is to be skipped.

    A step is skipped if the loss or the gradient is not finite or, if `state` has the norms of the
    last gradients, if the gradient is a spike among them.

    Args:
        state: the state before the step.
        batch: a batch of patches.
        apply: `apply(params, images)` returns the images of all stages, the last stage first.
        optimizer: transforms gradients into updates.
        loss: configuration of the loss.
        optim: configuration of the moving average and of spikes; the one that was passed to
            `create_state`.
        accumulate: number of equal microbatches whose gradients are computed in turn.
        mixup: `mixup(degraded, target, step)` blends the patches of the batch. It takes images as
            they are in the batch, also integers, and returns floats in [0, 1].

    Returns:
        The new state and scalars: "loss", the sum over the stages; "loss_stage1" and so on;
        "gradient_norm", before clipping; and "skipped", which is 1 if the state, including
        `state.step`, has not changed.
    """
    degraded, target = batch["degraded"], batch["target"]
    if mixup is not None:
        degraded, target = mixup(degraded, target, state.step)
    degraded, target = to_float(degraded), to_float(target)

    def total_loss(params: Any, degraded: jax.Array, target: jax.Array) -> tuple[jax.Array, list]:
        losses = stage_losses(apply(params, degraded), target, loss)
        return jnp.asarray(sum(losses)), losses

    loss_and_grad = jax.value_and_grad(total_loss, has_aux=True)
    (value, losses), gradients = accumulate_gradients(loss_and_grad, accumulate)(
        state.params, degraded, target
    )
    norm = optax.tree.norm(gradients)
    candidate = apply_gradients(state, gradients, norm, optimizer, optim)
    accept = jnp.isfinite(value) & jnp.isfinite(norm)
    if state.norms is not None:
        # Until more than half of the window is filled, the median is infinite and nothing is a
        # spike. The norms of spikes do not enter the window.
        accept &= ~(norm > optim.spike_factor * jnp.median(state.norms))
    new_state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), candidate, state)

    metrics = {f"loss_stage{len(losses) - i}": stage for i, stage in enumerate(losses)}
    metrics |= {"loss": value, "gradient_norm": norm, "skipped": 1 - accept.astype(jnp.int32)}
    return new_state, metrics


def apply_gradients(
    state: TrainState,
    gradients: Any,
    norm: jax.Array,
    optimizer: optax.GradientTransformation,
    optim: OptimConfig,
) -> TrainState:
    """Returns the state after an update with gradients of global norm `norm`, a scalar."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, norms = state.ema, state.norms
    if ema is not None:
        # The decay is smaller at first, so that the average soon forgets the random start.
        decay = jnp.minimum(optim.ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, ema, 1 - decay)
    if norms is not None:
        norms = norms.at[state.step % len(norms)].set(norm)
    return TrainState(state.step + 1, params, opt_state, ema, norms)


def accumulate_gradients(function: Callable, num_microbatches: int) -> Callable:
    """Returns a function that computes `function` on equal microbatches in turn.

    It averages the outputs. That takes less memory than computing the whole batch at once.

    Args:
        function: `function(params, *images)`, with images [B, H, W, C]; returns a pytree of means
            over the batch.
        num_microbatches: number of microbatches; must divide B.
    """
    if num_microbatches == 1:
        return function

    def average(params: Any, *images: jax.Array) -> Any:
        # A microbatch takes every n-th image, so that it is sharded over all devices.
        split = [x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1) for x in images]
        shapes = jax.eval_shape(function, params, *(x[0] for x in split))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(sums: Any, microbatch: list[jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, function(params, *microbatch)), None

        sums, _ = jax.lax.scan(add, zeros, split)
        return jax.tree.map(lambda x: x / num_microbatches, sums)

    return average


def psnr(restored: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the PSNR of each image in dB, [B], at most 100.

    Args:
        restored: float images [B, H, W, 3]. Values are clipped to [0, 1], not rounded to 8 bits.
        target: the ground truth, likewise.
    """
    error = jnp.clip(restored, 0, 1) - jnp.clip(target, 0, 1)
    return -10 * jnp.log10(jnp.maximum(jnp.mean(jnp.square(error), axis=(1, 2, 3)), 1e-10))


def validation_step(params: Any, batch: Batch, *, apply: Apply) -> dict[str, jax.Array]:
    """Restores a batch and computes its scores.

    Returns:
        "psnr", [1 + stages, B] in dB, of the degraded images and of the stages, stage 1 first, and
        "images", float32 [stages, B, H, W, 3], the stages' images, stage 1 first, not clipped.
    """
    degraded, target = to_float(batch["degraded"]), to_float(batch["target"])
    stages = apply(params, degraded)[::-1]
    scores = jnp.stack([psnr(images, target) for images in (degraded, *stages)])
    return {"psnr": scores, "images": jnp.stack(stages)}
