"""Pictures of noise, for the tests of image files."""

import numpy as np
from PIL import Image


def noise(channels: int, dtype: str = "u1", height: int = 9, width: int = 14) -> np.ndarray:
    """Makes the same noise [height, width, channels] each time."""
    largest = np.iinfo(dtype).max
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, largest, shape, dtype, endpoint=True)


def picture_of(pixels: np.ndarray) -> Image.Image:
    """Makes Pillow's picture of pixels [H, W, C]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
