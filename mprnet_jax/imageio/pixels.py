"""Converts restored images to 8 bits; all 8-bit scores depend on it."""

import numpy as np


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Converts floats, clipped to [0, 1], to uint8 by rounding; NaN is black. Keeps uint8."""
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
