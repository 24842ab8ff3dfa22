"""The image pairs of the golden scores; `python pairs.py FOLDER` writes them for Octave."""

import sys
from pathlib import Path

import numpy as np
from skimage import data
from skimage.io import imsave


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (degraded, target), uint8 [H, W, 3], from photos in scikit-image's wheel."""
    random = np.random.RandomState(4)  # its streams are frozen, unlike those of default_rng

    def clip(image: np.ndarray) -> np.ndarray:
        return np.uint8(np.clip(np.rint(image), 0, 255))

    astronaut = data.astronaut()[100:260, 140:301]
    chelsea = data.chelsea()[60:180, 100:291]
    coffee = data.coffee()[50:250, 120:420]
    blurred = np.mean([np.roll(coffee, shift, axis=1) for shift in range(3)], axis=0)
    return {
        "astronaut, noise": (clip(astronaut + random.normal(0, 25, astronaut.shape)), astronaut),
        "chelsea, darker": (clip(chelsea * 0.8), chelsea),
        "coffee, blurred": (clip(blurred), coffee),
        "coffee, streaks": (clip(coffee + 90 * (random.rand(*coffee.shape[:2], 1) > 0.93)), coffee),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for number, (name, pair) in enumerate(pairs().items()):
        (folder / f"{number}.txt").write_text(name)
        for role, image in zip(("degraded", "target"), pair):
            imsave(folder / f"{number}_{role}.png", image, check_contrast=False)
