"""Adam and its learning rate (paper, section 4.2; the warm-up is from the authors' recipe)."""

import optax

from mprnet_jax.config import OptimConfig, cosine_steps

__all__ = ["make_optimizer", "schedule"]


def schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up, then a cosine to the final rate."""
    decay_steps = cosine_steps(config.decay_steps, total_steps, config.warmup_steps)
    cosine = optax.cosine_decay_schedule(
        config.learning_rate, decay_steps, alpha=config.final_learning_rate / config.learning_rate
    )
    if not config.warmup_steps:
        return cosine
    # Step 0 has 1 / warmup_steps of the rate: a rate of 0 would waste it.
    warmup = optax.linear_schedule(
        config.learning_rate / config.warmup_steps, config.learning_rate, config.warmup_steps - 1
    )
    return optax.join_schedules([warmup, cosine], [config.warmup_steps])


def make_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns Adam, preceded by clipping of the gradient's norm and weight decay if configured.

    Weight decay is added to the gradient, as in PyTorch's Adam, not to the update, as in AdamW.
    """
    transforms = []
    if config.clip_norm:
        transforms.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        transforms.append(optax.add_decayed_weights(config.weight_decay))
    adam = optax.adam(schedule(config, total_steps), b1=0.9, b2=0.999, eps=1e-8)
    return optax.chain(*transforms, adam)
