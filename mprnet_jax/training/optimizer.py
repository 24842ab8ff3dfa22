"""Adam and its learning rate (paper, section 4.2; the warm-up is its authors')."""

import optax

from mprnet_jax.config import OptimConfig


def schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 in the warm-up, then a cosine to the final rate."""
    decay_steps = config.decay_steps or total_steps - config.warmup_steps
    cosine = optax.cosine_decay_schedule(
        config.learning_rate, decay_steps, alpha=config.final_learning_rate / config.learning_rate
    )
    if not config.warmup_steps:
        return cosine
    # The first step already moves: step 0 has 1/warmup_steps of the rate.
    warmup = optax.linear_schedule(
        config.learning_rate / config.warmup_steps, config.learning_rate, config.warmup_steps - 1
    )
    return optax.join_schedules([warmup, cosine], [config.warmup_steps])


def make_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """The update of one step: clipping of the gradient's norm and weight decay if asked for, Adam.

    Weight decay joins the gradient, as in PyTorch's Adam, not the update, as in AdamW.
    """
    before = []
    if config.clip_norm:
        before.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        before.append(optax.add_decayed_weights(config.weight_decay))
    adam = optax.adam(schedule(config, total_steps), b1=0.9, b2=0.999, eps=1e-8)
    return optax.chain(*before, adam)
