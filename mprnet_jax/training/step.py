"""One training step and one validation step, as pure functions of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mprnet_jax.config import LossConfig
from mprnet_jax.training.losses import stage_losses
from mprnet_jax.training.state import TrainState

Batch = dict[str, jax.Array]  # "degraded" and "target", [B, H, W, 3], uint8 or floats in [0, 1]
Metrics = dict[str, jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]; floats pass."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    apply: Callable[..., list[jax.Array]],
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    mix: Mix | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer.

    Args:
        state: where the run is.
        batch: the step's patches.
        apply: `apply(params, images) -> [stage 3, stage 2, stage 1]`.
        optimizer: what turns gradients into updates.
        loss: which loss.
        mix: `mix(degraded, target, step)` changes the patches first, as mixup does.

    Returns:
        The next state and scalars: "loss", "loss_stage1" to "loss_stage3", "gradient_norm".
    """
    degraded, target = to_float(batch["degraded"]), to_float(batch["target"])
    if mix is not None:
        degraded, target = mix(degraded, target, state.step)

    def total(params: Any) -> tuple[jax.Array, list[jax.Array]]:
        losses = stage_losses(apply(params, degraded), target, loss)
        return sum(losses), losses

    (value, losses), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {f"loss_stage{3 - i}": stage for i, stage in enumerate(losses)}
    metrics |= {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
    return TrainState(state.step + 1, params, opt_state), metrics


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
