"""Deblurring, as the official weights were trained: GoPro, 256x256 patches, batch 16, 3000 epochs.

    python -m mprnet_jax.train --config configs/deblur.py

The folder datasets, or --config.data.root=DIR, holds GoPro/train/{input,target} and
GoPro/test/{input,target}. Published score with the authors' weights: 32.66 dB on GoPro, 30.96 dB on
HIDE (RGB). Where decoding GoPro's large pictures would starve the device, prepare the set once and
train from that:

    python -m mprnet_jax.prepare --benchmark GoPro --source datasets --data_dir prepared \\
        --cut 512 --raw
    python -m mprnet_jax.train --config configs/deblur.py --config.data.source=prepared \\
        --config.data.root=prepared --config.data.train=gopro_cut512_raw \\
        --config.data.validation=gopro_cut512_raw

Backpropagation rematerialises (recomputes) every CAB (model.remat), to fit smaller devices. An H100
has enough memory for faster steps, which take 44 GB, and so have four chips of a TPU v5e, with
10 GB on each:
--config.model.remat=none --config.model.dtype=bfloat16

The variant `sample` needs no data: a narrow network learns on embedded photos with synthetic motion
blur, in a few minutes on two CPU cores. Deblurring learns slowly: expect a few tenths of a dB.

    python -m mprnet_jax.train --config configs/deblur.py:sample
"""

from dataclasses import replace

from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, sample_config
from mprnet_jax.errors import UserError

STEPS_PER_EPOCH = -(-2103 // 16)


def get_config(variant: str = "") -> TrainConfig:
    """Returns the recipe, or for "sample" a small run without data of your own."""
    if variant == "sample":
        return sample_config(
            "deblur-sample",
            "sample_blur",
            350,
            data=DataConfig(source="sample_blur", saturation=True),
            note="Deblurring learns slowly: so short a run gains a few tenths of a dB.",
        )
    if variant:
        raise UserError(f"configs/deblur.py:{variant}: has no such variant; use :sample or none")
    return TrainConfig(
        name="deblur",
        model=replace(ModelConfig.deblur(), remat="cab"),
        data=DataConfig(
            root="datasets",
            train="GoPro/train",
            validation="GoPro/test",
            published="GoPro",
            saturation=True,
        ),
        optim=OptimConfig(
            learning_rate=2e-4, final_learning_rate=1e-6, warmup_steps=3 * STEPS_PER_EPOCH
        ),
        total_steps=3000 * STEPS_PER_EPOCH,
        batch_size=16,
        patch_size=256,
        validation_crop=256,
        validate_every=20 * STEPS_PER_EPOCH,
        checkpoint_every=1000,
    )
