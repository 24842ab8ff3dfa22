"""Image files in and out.

Pixels are [H, W, C], uint8; C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB and alpha.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mprnet_jax.errors import UserError

# Extension of a file -> the format that Pillow knows it by. Nothing else is ever tried.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass
class Photo:
    """A picture as its file holds it."""

    pixels: np.ndarray


def read(path: Path) -> Photo:
    """Reads an image file.

    Raises:
        UserError: if it is no whole picture in one of `FORMATS`.
    """
    try:
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as picture:
            mode = picture.mode if picture.mode in CHANNELS.values() else "RGB"
            pixels = np.asarray(picture.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error}); replace it") from error
    return Photo(pixels.reshape((*pixels.shape[:2], -1)))


def write(path: Path, photo: Photo) -> None:
    """Writes an image file in the format of its extension; it appears whole or not at all."""
    pixels = photo.pixels
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            picture.save(file, format=FORMATS[path.suffix.lower()])
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
