"""Restores photos with trained weights.

Example:
    python -m mprnet_jax.restore --weights runs/derain --input rainy.jpg --output restored
"""

from pathlib import Path

import numpy as np
from absl import flags

from mprnet_jax import command
from mprnet_jax.errors import UserError
from mprnet_jax.restoration import images
from mprnet_jax.restoration.restorer import Restorer

WEIGHTS = flags.DEFINE_string(
    "weights", None, "A run folder, a .safetensors or a .pth file.", required=True
)
INPUT = flags.DEFINE_string("input", None, "A photo, or a folder of photos.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "The folder for restored photos.", required=True)


def main() -> None:
    from mprnet_jax import load
    from mprnet_jax.devices import compiling

    compiling.use_compile_cache()
    paths = find_photos(Path(INPUT.value))
    output = Path(OUTPUT.value)
    restorer = Restorer(load(WEIGHTS.value))
    output.mkdir(parents=True, exist_ok=True)
    for path in paths:
        photo = images.read(path)
        photo.pixels = restore_colours(restorer, photo.pixels)
        images.write(output / path.name, photo)
        print(output / path.name)


def find_photos(source: Path) -> list[Path]:
    """The file itself, or the photos of a folder.

    Raises:
        UserError: if there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"--input={source}: there is no such file or folder")
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in images.FORMATS)
    if not paths:
        raise UserError(f"--input={source}: holds no {', '.join(images.FORMATS)} files")
    return paths


def restore_colours(restorer: Restorer, pixels: np.ndarray) -> np.ndarray:
    """Restores [H, W, C] pixels; alpha stays as it is, grey is restored as RGB and averaged."""
    colours, alpha = (pixels, pixels[..., :0]) if pixels.shape[2] % 2 else np.split(pixels, [-1], 2)
    if colours.shape[2] == 3:
        restored = restorer(colours)
    else:
        restored = restorer(np.repeat(colours, 3, axis=2))
        restored = np.round(restored.mean(axis=2, keepdims=True)).astype(pixels.dtype)
    return np.concatenate([restored, alpha], axis=2)


if __name__ == "__main__":
    command.run(main)
