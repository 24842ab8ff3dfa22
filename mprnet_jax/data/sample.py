"""The embedded sample: photos that ship inside the scikit-image package.

Nothing is downloaded. Training photos and held-out photos are different pictures.
"""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from mprnet_jax.data.pairs import Example
from mprnet_jax.imageio.rgb import decode

TRAINING_PHOTOS = ("coffee.png", "motorcycle_left.png", "rocket.jpg", "ihc.png", "color.png")
HELD_OUT_PHOTOS = ("astronaut.png", "chelsea.png")
# Parts of the photos whose centres show a face.
REGIONS: dict[str, Any] = {"astronaut.png": np.s_[:320, 60:380], "chelsea.png": np.s_[:, 60:380]}


def photo(name: str) -> np.ndarray:
    """Returns one of the embedded photos, uint8 RGB [H, W, 3]."""
    with resources.as_file(resources.files("skimage") / "data" / name) as path:
        return decode(path)[REGIONS.get(name, ...)]


class Photos:
    """Clean photos, "target" only; `data.augment.RandomPatch` degrades each training patch."""

    def __init__(self, names: Sequence[str]):
        self.names = [name.split(".")[0] for name in names]
        self._photos = [photo(name) for name in names]

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Example:
        return {"target": self._photos[index]}
