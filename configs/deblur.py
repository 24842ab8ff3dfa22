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

The variants `realblur_r` and `realblur_j` train for RealBlur on three sets at once, as the authors
did for the lower part of the paper's table of RealBlur. The data folder holds GoPro/train,
BSD_B/train, and RealBlur_R/train and RealBlur_R/test, or those of RealBlur_J, each with input and
target.

    python -m mprnet_jax.train --config configs/deblur.py:realblur_r

What the authors say of it (swz30/MPRNet, issues 40 and 70): a network for each of R and J, trained
on GoPro, BSD and RealBlur as by RealBlur's authors, for 100 epochs and not from other weights;
learning rate, batch and optimizer as for GoPro. The BSD of RealBlur's authors is BSD-B, with
synthetic blur (rimchang/RealBlur). Not said is how the sets share an epoch. This project's choice
is equal shares, and an epoch of 20,000 examples of each set, for the command of RealBlur's authors
has --over_sampling=20000; patches are as large as for GoPro. Half of the examples from RealBlur:
--config.data.train=GoPro/train,BSD_B/train,RealBlur_R/train:2. A loss that became infinite on
RealBlur is reported in issue 40; --config.optim.clip_norm=0.01 is the authors' advice for that.

The variant `sample` needs no data: a narrow network learns on embedded photos with synthetic motion
blur, in a few minutes on two CPU cores. Deblurring learns slowly: expect a few tenths of a dB.

    python -m mprnet_jax.train --config configs/deblur.py:sample

The variant `safe` is the recipe with two guards against a loss that explodes. A lower rate comes
first (docs/commands.md, "When the loss explodes"). On a narrow network at raised rates no fewer
runs diverged with both guards than without; with the clip alone fewer may
(benchmarks/results/divergence.md).

    python -m mprnet_jax.train --config configs/deblur.py:safe

optim.clip_norm=0.01 is the authors' advice. It does not make steps smaller: Adam divides by the
running size of the gradients, and where nearly all are longer than 0.01, as in the sample, it sees
gradients of one length. No batch counts for more than others, and growing gradients do not lengthen
Adam's steps (otherwise up to 7 times the rate for a parameter). But falling gradients do not
shorten them either, as they do at the start, where clipping therefore makes steps larger.

optim.spike_factor=20 skips steps whose gradient norm is over 20 times the median of the last 64.
Norms of sample runs that did not diverge stayed below 5 times, so 20 leaves sound steps alone. It
guards against single bad batches: optim.max_skipped spikes in a row end the run, also one that
clipping would have brought through; --config.optim.spike_factor=0 keeps the clip alone.
"""

from dataclasses import replace

from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, sample_config
from mprnet_jax.errors import UserError

STEPS_PER_EPOCH = -(-2103 // 16)
REALBLUR_STEPS_PER_EPOCH = 3 * 20_000 // 16


def get_config(variant: str = "") -> TrainConfig:
    """Returns the recipe, or that of a variant.

    The variants are "safe", "realblur_r", "realblur_j" and "sample".
    """
    if variant == "sample":
        return sample_config(
            "deblur-sample",
            "sample_blur",
            350,
            data=DataConfig(source="sample_blur", saturation=True),
            note="Deblurring learns slowly: so short a run gains a few tenths of a dB.",
        )
    if variant in ("realblur_r", "realblur_j"):
        return realblur_config("RealBlur_R" if variant == "realblur_r" else "RealBlur_J")
    if variant not in ("", "safe"):
        raise UserError(
            f"configs/deblur.py:{variant}: has no such variant; use :safe, :realblur_r, "
            ":realblur_j, :sample or none"
        )
    optim = OptimConfig(
        learning_rate=2e-4, final_learning_rate=1e-6, warmup_steps=3 * STEPS_PER_EPOCH
    )
    if variant == "safe":
        optim = replace(optim, clip_norm=0.01, spike_factor=20.0)
    return TrainConfig(
        name="deblur-safe" if variant == "safe" else "deblur",
        model=replace(ModelConfig.deblur(), remat="cab"),
        data=DataConfig(
            root="datasets",
            train="GoPro/train",
            validation="GoPro/test",
            published="GoPro",
            saturation=True,
        ),
        optim=optim,
        total_steps=3000 * STEPS_PER_EPOCH,
        batch_size=16,
        patch_size=256,
        validation_crop=256,
        validate_every=20 * STEPS_PER_EPOCH,
        checkpoint_every=1000,
    )


def realblur_config(folder: str) -> TrainConfig:
    """Returns the recipe that trains on GoPro, BSD-B and RealBlur, for a folder of RealBlur."""
    config = get_config()
    return replace(
        config,
        name=f"deblur-{folder.lower()}",
        data=replace(
            config.data,
            train=f"GoPro/train:1,BSD_B/train:1,{folder}/train:1",
            validation=f"{folder}/test",
            published="GoPro, BSD-B and RealBlur",
        ),
        optim=replace(config.optim, warmup_steps=3 * REALBLUR_STEPS_PER_EPOCH),
        total_steps=100 * REALBLUR_STEPS_PER_EPOCH,
        validate_every=REALBLUR_STEPS_PER_EPOCH,
    )
