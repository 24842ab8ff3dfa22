"""Denoising, as the published weights were trained: SIDD, 128x128 patches, batch 16, 80 epochs.

    python -m mprnet_jax.prepare --benchmark SIDD --source datasets --data_dir prepared
    python -m mprnet_jax.train --config configs/denoise.py

The folder datasets holds SIDD/train, with SIDD-Medium's scene folders (320 photos), and SIDD/test,
with ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat. The first command cuts 300
patches of 256x256 out of each of the 320 photos. Published score with the authors' weights: 39.71
dB on SIDD's validation blocks, 39.80 dB on DND (RGB). Folders of pairs of your own want
--config.data.source=folders, as configs/derain.py reads them.

Patches of 256x256 take 38 GB in bfloat16: smaller devices want --config.model.remat=cab then.

The variant `sample` needs no data: a narrow network learns on embedded photos with synthetic
noise, in a few minutes on two CPU cores.

    python -m mprnet_jax.train --config configs/denoise.py:sample
"""

from mprnet_jax.config import DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from mprnet_jax.errors import UserError

STEPS_PER_EPOCH = 320 * 300 // 16

# Neither edges nor values beyond black and white count.
LOSS = LossConfig(edge_weight=0, clip=True)


def get_config(variant: str = "") -> TrainConfig:
    """The recipe, or with "sample" its small sibling."""
    if variant == "sample":
        return sample()
    if variant:
        raise UserError(f"configs/denoise.py:{variant}: has no such variant; use :sample or none")
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
            # The paper's run ends on its way down, at 5.5e-5.
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


def sample() -> TrainConfig:
    """A narrow network, small patches, a few hundred steps."""
    return TrainConfig(
        name="denoise-sample",
        model=ModelConfig(width=16, unet_growth=8, orsnet_growth=8, cabs_per_orb=2),
        data=DataConfig(source="sample_noise"),
        loss=LOSS,
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=20),
        total_steps=200,
        batch_size=8,
        patch_size=64,
        validation_crop=296,
        validate_every=100,
        checkpoint_every=50,
        log_every=10,
    )
