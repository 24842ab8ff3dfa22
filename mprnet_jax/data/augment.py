"""What happens to an example between the source and the batch: crop, turn, degrade, saturate.

All images of an example share one size, and one draw decides for all of them.
"""

import dataclasses

import numpy as np

from mprnet_jax.data.degradations import Degradation
from mprnet_jax.data.pairs import Example

LUMA = (0.299, 0.587, 0.114)  # of R, G and B in the grey that saturation leaves alone (BT.601)


def pad_to(image: np.ndarray, size: int) -> np.ndarray:
    """Reflects a [H, W, C] image at its right and bottom until both sides are at least `size`."""
    pad = [(0, max(0, size - side)) for side in image.shape[:2]]
    return np.pad(image, [*pad, (0, 0)], mode="reflect") if any(map(any, pad)) else image


def crop(example: Example, size: int, place: tuple[float, float]) -> Example:
    """Cuts a [size, size] patch out of all images, reflect-padded where they are smaller.

    `place` in [0, 1) says where, from the top and left (0) to the bottom and right (1).
    """
    padded = {name: pad_to(image, size) for name, image in example.items()}
    height, width = next(iter(padded.values())).shape[:2]
    y, x = int(place[0] * (height - size + 1)), int(place[1] * (width - size + 1))
    return {name: image[y : y + size, x : x + size] for name, image in padded.items()}


def center_crop(example: Example, size: int) -> Example:
    """The [size, size] patch in the middle of all images."""
    return crop(example, size, (0.5, 0.5))


def symmetry(image: np.ndarray, which: int) -> np.ndarray:
    """One of the 8 symmetries of the square: `which` % 4 quarter turns, flipped from 4 on."""
    turned = np.rot90(image, which % 4)
    return turned[:, ::-1] if which >= 4 else turned


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Moves an RGB image away from its grey version (factor > 1), or towards it (factor < 1)."""
    grey = (image @ np.float32(LUMA))[..., None]
    return np.rint(np.clip(grey + factor * (image - grey), 0, 255)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class RandomPatch:
    """The training augmentation: a random crop in one of the 8 symmetries of the square.

    Where the source holds clean photos only, `degrade` makes the degraded side out of each patch;
    it comes after the turn, so that rain falls from above. With `saturation`, as for deblurring,
    one example in three gets a factor within 20 % of 1, the same for both images.
    """

    size: int
    degrade: Degradation | None = None
    saturation: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        cut = crop(example, self.size, tuple(rng.random(2)))
        which = int(rng.integers(8))
        patch = {name: np.ascontiguousarray(symmetry(image, which)) for name, image in cut.items()}
        if self.degrade is not None:
            patch["degraded"] = self.degrade(patch["target"], rng)
        if self.saturation and rng.random() < 1 / 3:
            factor = rng.uniform(0.8, 1.2)
            patch = {name: saturate(image, factor) for name, image in patch.items()}
        return patch
