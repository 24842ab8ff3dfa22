"""Eager PyTorch scripts that do the same as commands of this package.

    python -m benchmarks.eager restore WEIGHTS.safetensors FOLDER_OF_PHOTOS OUTPUT [DTYPE]
    python -m benchmarks.eager step WIDTH GROWTH_OF_UNET GROWTH_OF_ORSNET CABS BATCH PATCH

`restore` restores photos as a whole, in bfloat16 (autocast) unless DTYPE is float32, channels_last,
and writes PNG. `step` takes one training step on random patches.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.contenders import build_torch, torch_device
from benchmarks.work import PRESETS, Contender, Work
from mprnet_jax.config import SIZE_MULTIPLE, ModelConfig


def restore(weights: str, photos: str, output: str, dtype: str = "bfloat16") -> None:
    """Restores all photos of a folder."""
    import cv2
    import torch

    from mprnet_jax.weights import files, torch_reference

    device = torch_device()
    read = files.read(weights)
    model = torch_reference.with_weights(read.config, files.read_official(weights))
    model = model.to(device, memory_format=torch.channels_last)
    Path(output).mkdir()
    for path in sorted(Path(photos).iterdir()):
        photo = cv2.imread(str(path))[..., ::-1]
        height, width = photo.shape[:2]
        margins = [(0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE), (0, 0)]
        padded = np.pad(photo, margins, "reflect").transpose(2, 0, 1)[None]
        images = torch.from_numpy(np.ascontiguousarray(padded)).to(device).float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
        with torch.inference_mode(), autocast:
            restored = model(images)[0][0].float()
        pixels = (restored.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        cv2.imwrite(str(Path(output) / path.name), pixels[:height, :width, ::-1])


def step(width: int, unet: int, orsnet: int, cabs: int, batch: int, patch: int) -> None:
    """Takes one training step in float32 (TF32 on GPUs)."""
    PRESETS["of the command"] = ModelConfig(
        width=width, unet_growth=unet, orsnet_growth=orsnet, cabs_per_orb=cabs
    )
    work = Work("train", "of the command", batch, patch, patch)
    build_torch(Contender("eager", "torch"), work).run(1)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "restore":
        restore(*rest)
    else:
        step(*map(int, rest))
