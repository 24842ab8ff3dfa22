"""The eight symmetries of the square, for augmentation and for self-ensembles."""

import numpy as np


def apply_symmetry(image: np.ndarray, index: int) -> np.ndarray:
    """Rotates an image by `index % 4` quarter turns, then mirrors it if `index` is 4 or more.

    Args:
        image: [..., H, W, C].
        index: 0 to 7; 0 is the identity.

    Returns:
        A view of the image, [..., H, W, C] or [..., W, H, C].
    """
    rotated = np.rot90(image, index % 4, axes=(-3, -2))
    return rotated[..., ::-1, :] if index >= 4 else rotated


def invert_symmetry(image: np.ndarray, index: int) -> np.ndarray:
    """Undoes `apply_symmetry`; takes and returns the same shapes."""
    rotated = image[..., ::-1, :] if index >= 4 else image
    return np.rot90(rotated, -(index % 4), axes=(-3, -2))
