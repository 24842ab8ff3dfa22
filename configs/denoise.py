"""Denoising, as the official weights were trained: SIDD, 128x128 patches, batch 16, 80 epochs.

    python -m mprnet_jax.prepare --benchmark SIDD --source datasets --data_dir prepared
    python -m mprnet_jax.train --config configs/denoise.py

The folder datasets holds SIDD/train, with SIDD-Medium's scene folders (320 photos), and SIDD/test,
with ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat. The first command cuts 300
patches of 256x256 out of each of the 320 photos. Published score with the authors' weights: 39.71
dB on SIDD's validation blocks, 39.80 dB on DND (RGB). Folders of pairs of your own want
--config.data.source=folders, as configs/derain.py reads them.

With --config.patch_size=256 a step takes 38 GB in bfloat16: smaller devices want
--config.model.remat=cab then.

The variant `sample` needs no data: a narrow network learns on embedded photos with synthetic
noise, in a few minutes on two CPU cores.

    python -m mprnet_jax.train --config configs/denoise.py:sample

The variant `blind` trains a narrow network for noise of unknown kind and strength on photos under
free licences, in about an hour on two CPU cores. The network `denoise` that comes with the package
was trained so (docs/models/denoise.md).

    python -m mprnet_jax.corpus --output corpus
    python -m mprnet_jax.train --config configs/denoise.py:blind
"""

from mprnet_jax.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    corpus_config,
    sample_config,
)
from mprnet_jax.errors import UserError

STEPS_PER_EPOCH = 320 * 300 // 16

# No edge loss; predictions are clipped to [0, 1] before the loss.
LOSS = LossConfig(edge_weight=0, clip=True)


def get_config(variant: str = "") -> TrainConfig:
    """Returns the recipe, or that of the variant "sample" or "blind"."""
    if variant == "sample":
        return sample_config("denoise-sample", "sample_noise", 200, loss=LOSS)
    if variant == "blind":
        return corpus_config("denoise-blind", "blind_noise", 8_000, loss=LOSS)
    if variant:
        raise UserError(
            f"configs/denoise.py:{variant}: has no such variant; use :sample, :blind or none"
        )
    return TrainConfig(
        name="denoise",
        model=ModelConfig.denoise(),
        data=DataConfig(
            source="prepared",
            root="prepared",
            train="sidd",
            validation="sidd",
            published="SIDD-Medium and SIDD's validation blocks",
            mixup_from_step=5 * STEPS_PER_EPOCH,  # the sixth epoch
        ),
        loss=LOSS,
        optim=OptimConfig(
            learning_rate=2e-4,
            final_learning_rate=1e-6,
            warmup_steps=3 * STEPS_PER_EPOCH,
            # The cosine spans 117 epochs but training stops after 77 of them, near 5.5e-5.
            decay_steps=117 * STEPS_PER_EPOCH,
            weight_decay=1e-8,
        ),
        total_steps=80 * STEPS_PER_EPOCH,
        batch_size=16,
        patch_size=128,
        validation_crop=256,
        validate_every=STEPS_PER_EPOCH // 3,
        checkpoint_every=1000,
    )
