"""Pixels as arrays: their types, channels and orientation.

White is 255 in uint8, 65535 in uint16, and 1 in floats.
"""

import numpy as np

from mprnet_jax.imageio.metadata import TRANSPOSED


def white_of(dtype: np.dtype) -> float:
    """Returns the value of white.

    >>> white_of(np.dtype(np.uint16))
    65535
    """
    return np.iinfo(dtype).max if dtype.kind == "u" else 1.0


def to_dtype(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts an image to another type; returns it as it is if it has that type.

    Integers of fewer bits than the image's are rounded; floats are clipped to [0, 1] then, and NaN
    is black.
    """
    dtype = np.dtype(dtype)
    if image.dtype == dtype:
        return image
    if (image.dtype, dtype) == (np.uint8, np.uint16):
        return image * np.uint16(257)
    if (image.dtype, dtype) == (np.uint16, np.uint8):
        scaled = image / np.float32(257)
    elif image.dtype.kind == "u":
        scaled = image / np.float32(white_of(image.dtype))
    else:
        wide = np.promote_types(image.dtype, np.float32)  # float16 does not reach 65535
        scaled = np.clip(np.nan_to_num(image.astype(wide)), 0, 1) * white_of(dtype)
    return (np.rint(scaled) if dtype.kind == "u" else scaled).astype(dtype)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Converts an image to 8 bits, as `to_dtype` does; all 8-bit scores depend on it."""
    return to_dtype(image, np.dtype(np.uint8))


def split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits [H, W, C] into colours, [H, W, 1] or [H, W, 3], and alpha, [H, W, 0] or [H, W, 1]."""
    count = 1 if pixels.shape[2] <= 2 else 3
    return pixels[..., :count], pixels[..., count:]


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Converts [H, W, C] to RGB [H, W, 3]: drops alpha and repeats grey."""
    colours, _ = split_alpha(pixels)
    return np.broadcast_to(colours, (*pixels.shape[:2], 3))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an orientation (EXIF's tag 274) to stored pixels [H, W, C]."""
    if orientation in TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def divide_by_alpha(pixels: np.ndarray) -> np.ndarray:
    """Undoes the multiplication of colours by alpha, the last channel of [H, W, C]."""
    largest = 1.0 if pixels.dtype.kind == "f" else 65535.0
    alpha = pixels[..., -1:].astype(np.float64)
    colours = pixels[..., :-1] * (largest / np.where(alpha, alpha, 1))
    colours = np.minimum(colours, largest)
    if pixels.dtype.kind == "u":
        colours = np.rint(colours)
    return np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], axis=2)
