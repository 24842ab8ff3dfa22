"""Augments examples on their way from the source to the batch: crop, flip, degrade, saturate.

All images of an example share one size and get the same random parameters.
"""

import dataclasses

import numpy as np

from mprnet_jax.data.degradations import Degradation
from mprnet_jax.data.pairs import Example
from mprnet_jax.imageio.pixels import white_of
from mprnet_jax.symmetries import apply_symmetry

LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in grey (BT.601)


def pad_to(image: np.ndarray, size: int) -> np.ndarray:
    """Pads an image [H, W, C] by reflection at right and bottom to at least `size` on each side."""
    pad = [(0, max(0, size - side)) for side in image.shape[:2]]
    return np.pad(image, [*pad, (0, 0)], mode="reflect") if any(map(any, pad)) else image


def crop(example: Example, size: int, position: tuple[float, float]) -> Example:
    """Crops the same [size, size] patch from all images, reflect-padded where they are smaller.

    Args:
        example: images [H, W, C].
        size: side of the patch in pixels.
        position: relative (y, x) position in [0, 1): 0 is the top or left edge.

    Returns:
        Views of the images, [size, size, C].
    """
    padded = {name: pad_to(image, size) for name, image in example.items()}
    height, width = next(iter(padded.values())).shape[:2]
    y, x = int(position[0] * (height - size + 1)), int(position[1] * (width - size + 1))
    return {name: image[y : y + size, x : x + size] for name, image in padded.items()}


def center_crop(example: Example, size: int) -> Example:
    """Crops the central [size, size] patch from all images."""
    return crop(example, size, (0.5, 0.5))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the saturation of an RGB image [H, W, 3]; a factor of 0 makes it grey."""
    grey = (image @ np.array(LUMA, np.float32))[..., None]
    scaled = np.clip(grey + factor * (image - grey), 0, white_of(image.dtype))
    return (np.rint(scaled) if image.dtype.kind == "u" else scaled).astype(image.dtype)


@dataclasses.dataclass(frozen=True)
class RandomPatch:
    """The training augmentation: a random crop under a random symmetry of the square.

    Attributes:
        size: side of the patch in pixels.
        degrade: makes "degraded" from "target", for sources of clean photos; it is applied after
            flips and rotations, so that rain falls from above.
        saturation: whether to scale the saturation of one example in three by up to 20 %, as the
            paper does for deblurring.
    """

    size: int
    degrade: Degradation | None = None
    saturation: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        vertical, horizontal = rng.random(2)
        cropped = crop(example, self.size, (vertical, horizontal))
        index = int(rng.integers(8))
        patch = {
            name: np.ascontiguousarray(apply_symmetry(image, index))
            for name, image in cropped.items()
        }
        if self.degrade is not None:
            patch["degraded"] = self.degrade(patch["target"], rng)
        if self.saturation and rng.random() < 1 / 3:
            factor = rng.uniform(0.8, 1.2)
            patch = {name: adjust_saturation(image, factor) for name, image in patch.items()}
        return patch
