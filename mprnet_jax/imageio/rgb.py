"""Reads pictures as RGB, the images that networks train and are scored on.

The rules are those of `photos`: EXIF's orientation is applied, 16 bits and floats stay what they
are, palettes and CMYK become RGB. Alpha is dropped, grey is repeated.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from mprnet_jax.errors import UserError
from mprnet_jax.imageio.decoding import open_picture
from mprnet_jax.imageio.photos import FORMATS
from mprnet_jax.imageio.pixels import to_rgb

__all__ = ["decode"]

EXTENSIONS = tuple(FORMATS)
MAX_PIXELS = 89_478_485  # as Pillow's own limit: 256 MiB in 8-bit RGB
REMEDY = "crop or remove it"
MAYBE_DEEP = (".png", ".tif", ".tiff")  # extensions; all others have 8 bits


def decode(file: Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """Reads a picture as upright RGB.

    Args:
        file: a path or an opened file.
        name: what error messages call the file, by default its path.

    Returns:
        [H, W, 3]: uint8, uint16, or floats in [0, 1].

    Raises:
        UserError: if the file is not one whole picture of a known format.
    """
    name = name or str(file)
    with open_picture(file, name, MAX_PIXELS, REMEDY) as picture:
        if len(picture.sizes) > 1:
            raise UserError(f"{name}: holds {len(picture.sizes)} pages; save them one by one")
        try:
            return np.ascontiguousarray(to_rgb(picture.pixels(0)))
        except MemoryError as error:
            raise UserError(f"{name}: cannot be read, memory is too small; {REMEDY}") from error


def header_size(file: Path | BinaryIO, name: str | None = None) -> tuple[int, int]:
    """Returns height and width of a picture, as `decode` gives it, from its header.

    Raises:
        UserError: if the file has no known format.
    """
    with open_picture(file, name or str(file), MAX_PIXELS, REMEDY) as picture:
        return picture.sizes[0]


def header_dtype(path: Path) -> np.dtype:
    """Returns the type of the pixels that `decode` gives, from the file's header.

    It is uint8 where the header cannot be read: `decode` will say so.
    """
    try:
        with open_picture(path, str(path), MAX_PIXELS, REMEDY) as picture:
            return picture.dtype
    except UserError:
        return np.dtype(np.uint8)


def is_plain(path: Path, dtype: np.dtype) -> bool:
    """Whether a file is a PNG or JPEG picture in which any reader finds the same pixels as here.

    That is, of this type, upright as stored, and neither transparent nor in CMYK.
    """
    with open_picture(path, str(path), MAX_PIXELS, REMEDY) as picture:
        return picture.is_plain and picture.dtype == dtype
