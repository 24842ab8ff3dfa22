"""Checks the photos that a `Restorer` is given, and converts them to and from floats."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mprnet_jax.errors import UserError

HINTS = {  # package -> how its images become arrays
    "PIL": 'np.asarray(photo.convert("RGB"))',
    "torch": "photo.permute(1, 2, 0).cpu().numpy(), if it is [3, height, width]",
    "tensorflow": "photo.numpy()",
}


def as_array(photo: Any) -> np.ndarray:
    """Returns a photo, [H, W, 3] in an array of NumPy or JAX, as one of NumPy.

    Raises:
        TypeError: if it is something else.
        ValueError: if it has another shape, or no pixels.
    """
    if isinstance(photo, jax.Array):
        photo = np.asarray(photo)
    if not isinstance(photo, np.ndarray):
        kind = type(photo)
        hint = HINTS.get(kind.__module__.split(".")[0], "np.asarray(photo)")
        if isinstance(photo, str | bytes) or hasattr(photo, "__fspath__"):
            hint = 'what is in the file: np.asarray(PIL.Image.open(photo).convert("RGB"))'
        raise TypeError(
            f"photo is a {kind.__name__}: must be an array of NumPy or JAX, [height, width, 3]; "
            f"pass {hint}"
        )
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        hint = shape_hint(photo.shape)
        raise ValueError(
            f"photo has shape {photo.shape}: must be [height, width, 3], not empty{hint}"
        )
    return photo


def shape_hint(shape: tuple[int, ...]) -> str:
    """Returns what to pass in place of an array of a shape; "" if that is not clear."""
    match shape:
        case (3, _, _):
            return "; pass photo.transpose(1, 2, 0)"
        case (_, _, 4):
            return "; pass photo[..., :3]"
        case (_, _, 1):
            return "; pass np.repeat(photo, 3, axis=2)"
        case (_, _):
            return "; pass np.stack([photo] * 3, axis=2)"
        case (_, _, _, 3) | (_, 3, _, _):
            return "; pass one photo of a batch at a time, or list(photos) to `batch`"
    return ""


def check_values(photo: np.ndarray) -> None:
    """Raises ValueError unless a photo is of a known type, and floats are in [0, 1]."""
    if photo.dtype in (np.uint8, np.uint16):
        return
    if not jnp.issubdtype(photo.dtype, jnp.floating):
        raise ValueError(
            f"photo has dtype {photo.dtype}: must be uint8, uint16 or floats in [0, 1]; pass "
            "photo.astype(np.uint8) if its values are 0 to 255"
        )
    if not np.isfinite(photo).all():
        raise ValueError("photo has NaN or infinite values: floats must be in [0, 1]")
    low, high = float(photo.min()), float(photo.max())
    if low < 0 or high > 1:
        # Whoever means 0 to 255 has brighter pixels than 2; noise and filters overshoot by less.
        hint = "photo / 255" if low >= 0 and 2 < high <= 255 else "np.clip(photo, 0, 1)"
        raise ValueError(
            f"photo has values from {low:g} to {high:g}: floats must be in [0, 1]; pass {hint}"
        )


def to_floats(photo: np.ndarray) -> np.ndarray:
    """Returns a photo as float32, with integers scaled to [0, 1]."""
    floats = photo.astype(np.float32)
    return floats / np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else floats


def from_floats(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Undoes `to_floats`; integers are clipped and rounded, floats are not.

    Raises:
        UserError: if the photo has integers and the image has values that are not finite.
    """
    if dtype.kind == "u":
        if not np.isfinite(image).all():
            raise UserError("the restored photo is not finite; use other weights")
        largest = np.iinfo(dtype).max
        image = np.rint(np.clip(image, 0, 1) * largest)
    return image.astype(dtype)
