"""Reads PNG and JPEG files as 8-bit RGB, the images that networks train and are scored on."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mprnet_jax.errors import UserError
from mprnet_jax.imageio.headers import png_depth_and_type, report_damage

FORMATS = ("PNG", "JPEG")
EXTENSIONS = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 89_478_485  # as Pillow's own limit: 256 MiB in RGB


def decode(file: Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """Reads a PNG or JPEG file as RGB; drops alpha and repeats grey.

    EXIF's orientation is ignored.

    Args:
        file: a path or an opened file.
        name: what error messages call the file, by default its path.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: if the file is not a whole picture of one of these formats with 8 bits per
            channel.
    """
    name = name or str(file)
    with report_damage(name):
        picture = Image.open(file, formats=FORMATS)
    with picture:
        # Pillow only warns, up to twice as many, and warning filters are not thread-safe.
        if picture.width * picture.height > MAX_PIXELS:
            raise UserError(f"{name}: has more than {MAX_PIXELS} pixels; crop or remove it")
        # Pillow would silently reduce 16-bit colours to 8 bits.
        if picture.format == "PNG" and png_depth_and_type(picture)[0] == 16:
            raise UserError(f"{name}: has 16 bits a channel; convert it to 8-bit RGB, or remove it")
        if picture.mode not in ("L", "LA", "P", "RGB", "RGBA"):
            raise UserError(
                f"{name}: has colour mode {picture.mode}; convert it to 8-bit RGB, or remove it"
            )
        with report_damage(name):
            return np.asarray(picture.convert("RGB"))


def header_size(file: Path | BinaryIO, name: str | None = None) -> tuple[int, int]:
    """Returns the height and width of a PNG or JPEG file, as `decode` gives it, from its header.

    Raises:
        UserError: if the file has neither format.
    """
    with report_damage(name or str(file)), Image.open(file, formats=FORMATS) as picture:
        return picture.height, picture.width
