"""The embedded sample: photos that ship inside the scikit-image package, and synthetic rain.

Nothing is downloaded. Training photos and held-out photos are different pictures. Rain is drawn
from a generator at each use, so a network cannot memorise it.
"""

from collections.abc import Callable, Sequence
from importlib import resources

import cv2
import numpy as np

from mprnet_jax.data.pairs import Example, decode

TRAINING_PHOTOS = ("coffee.png", "motorcycle_left.png", "rocket.jpg", "ihc.png", "color.png")
HELD_OUT_PHOTOS = ("astronaut.png", "chelsea.png")
# Where the faces are, so that a centre crop shows them.
REGIONS = {"astronaut.png": np.s_[:320, 60:380], "chelsea.png": np.s_[:, 60:380]}

# A degradation maps a clean image, uint8 [H, W, 3], to a degraded one of the same shape and type.
Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def photo(name: str) -> np.ndarray:
    """One of the embedded photos, uint8 RGB [H, W, 3]."""
    with resources.as_file(resources.files("skimage") / "data" / name) as path:
        return decode(path)[REGIONS.get(name, ...)]


class Photos(Sequence[Example]):
    """Clean photos; what degrades them is applied to each training patch (`data.augment`)."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._photos = [photo(name) for name in names]

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Example:
        return {"target": self._photos[index]}


class DegradedPhotos(Sequence[Example]):
    """Photos with a fixed degradation each, drawn from a seed: for validation."""

    def __init__(self, names: Sequence[str], degrade: Degradation, seed: int = 0):
        self.names = [name.split(".")[0] for name in names]
        self._pairs = [
            {"degraded": degrade(target, np.random.default_rng((seed, i))), "target": target}
            for i, target in enumerate(map(photo, names))
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        return self._pairs[index]


def streak(length: float, angle: float, width: float) -> np.ndarray:
    """The picture of one rain drop that falls while the shutter is open.

    Args:
        length: of the streak in pixels.
        angle: from the vertical, in radians.
        width: standard deviation of its profile, in pixels.

    Returns:
        [k, k] float32, 1 at the brightest.
    """
    radius = int(np.ceil(length / 2 + 2 * width))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along = y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    past_the_end = np.maximum(np.abs(along) - length / 2, 0)
    return np.exp(-(across**2 + past_the_end**2) / (2 * width**2))


def add_rain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws rain over an image: one or two layers of streaks of random density and shape.

    Streaks brighten what is behind them: image + rain * (light - image).
    """
    height, width = image.shape[:2]
    rain = np.zeros((height, width), np.float32)
    main_angle = rng.normal(0, 0.3)
    for _ in range(rng.integers(1, 3)):
        kernel = streak(
            length=rng.uniform(6, 30),
            angle=main_angle + rng.normal(0, 0.1),
            width=rng.uniform(0.5, 1.1),
        )
        # Drops fall outside the picture too, so that streaks cross its border.
        margin = kernel.shape[0] // 2
        shape = (height + 2 * margin, width + 2 * margin)
        covered = rng.uniform(0.03, 0.2)  # share of the picture behind this layer's streaks
        drops = rng.random(shape, np.float32) < covered / kernel.sum()
        brightness = rng.uniform(0.3, 1.0) * rng.uniform(0.5, 1.0, shape).astype(np.float32)
        layer = cv2.filter2D(drops * brightness, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        rain += layer[margin : margin + height, margin : margin + width]
    rain = np.minimum(rain, 1)[..., None] * rng.uniform(0.5, 0.8)
    light = rng.uniform(0.8, 1.0) * 255
    return np.rint(image + rain * np.maximum(light - image, 0)).astype(np.uint8)
