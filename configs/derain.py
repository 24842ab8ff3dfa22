"""Deraining, as the official weights were trained: Rain13K, 256x256 patches, batch 16, 250 epochs.

    python -m mprnet_jax.train --config configs/derain.py

The folder datasets, or --config.data.root=DIR, holds train/{input,target} (Rain13K) and
test/Rain100L/{input,target}. Published score with the authors' weights: 36.40 dB on Rain100L, 32.73
dB on the mean of the five test sets (Y channel).

A step takes 40 GB in float32 (as compiled for a CPU): smaller devices want --config.accumulate=4,
--config.model.dtype=bfloat16 or, on GPUs and TPUs, --config.model.remat=cab.

The variant `sample` needs no data: a narrow network learns on embedded photos with synthetic rain,
in a few minutes on two CPU cores.

    python -m mprnet_jax.train --config configs/derain.py:sample

The variant `any` trains a narrow network for rain of all kinds on photos under free licences, in
about an hour on two CPU cores. The network `derain` that comes with the package was trained so and
then a little longer (docs/models/derain.md).

    python -m mprnet_jax.corpus --output corpus
    python -m mprnet_jax.train --config configs/derain.py:any
"""

from mprnet_jax.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    corpus_config,
    sample_config,
)
from mprnet_jax.errors import UserError

STEPS_PER_EPOCH = 13712 // 16


def get_config(variant: str = "") -> TrainConfig:
    """Returns the recipe, or that of the variant "sample" or "any"."""
    if variant == "sample":
        return sample_config("derain-sample", "sample_rain", 400)
    if variant == "any":
        return corpus_config("derain-any", "rain_and_haze", 6_000)
    if variant:
        raise UserError(
            f"configs/derain.py:{variant}: has no such variant; use :sample, :any or none"
        )
    return TrainConfig(
        name="derain",
        model=ModelConfig.derain(),
        data=DataConfig(
            root="datasets",
            train="train",
            validation="test/Rain100L",
            published="Rain13K and Rain100L",
        ),
        optim=OptimConfig(
            learning_rate=2e-4, final_learning_rate=1e-6, warmup_steps=3 * STEPS_PER_EPOCH
        ),
        total_steps=250 * STEPS_PER_EPOCH,
        batch_size=16,
        patch_size=256,
        validation_crop=128,
        validate_every=5 * STEPS_PER_EPOCH,
        checkpoint_every=1000,
    )
