"""Trains a small network on pairs of your own, and restores a photo with it.

    python examples/own_data.py DIR photo.png restored.png

DIR/train and DIR/test each hold the folders input and target, with pictures of the same names.
"""

import sys

import numpy as np
from PIL import Image

import mprnet_jax
from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from mprnet_jax.training.loop import train

MODEL = ModelConfig(width=16, unet_growth=16, orsnet_growth=8, cabs_per_orb=2)


def main(folder, photo, output, model=MODEL, steps=5000, workdir="runs/own"):
    config = TrainConfig(
        name="own",
        model=model,
        data=DataConfig(root=folder, train="train", validation="test"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=steps // 50),
        total_steps=steps,
        batch_size=8,
        patch_size=64,
        validation_crop=64,
    )
    train(config, workdir)  # the same call goes on after an interruption
    restorer = mprnet_jax.Restorer(mprnet_jax.load(workdir))
    restored = restorer(np.asarray(Image.open(photo).convert("RGB")))
    Image.fromarray(restored).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
