"""Image files in and out: PNG, JPEG, WebP, TIFF and BMP, of 8 and, in PNG and TIFF, 16 bits.

Pixels are [H, W, C], uint8 or uint16; C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB
and alpha. They stand upright: EXIF's orientation is applied on reading and left out on writing.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio import decoding
from mprnet_jax.imageio.encoding import check_holds, encode

# Extension of a file -> its format.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
MAX_PIXELS = 100_000_000
QUALITY = 95


class Photo(NamedTuple):
    """A picture as its file holds it."""

    pixels: np.ndarray
    exif: bytes = b""
    icc_profile: bytes | None = None


def size_of(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of the upright photo, from the file's header.

    Raises:
        UserError: if it is no picture, or one with too many pixels.
    """
    with decoding.opened(path, max_pixels) as picture:
        width, height = picture.size
        turned = decoding.orientation_of(path, picture) in decoding.TURNED
        return (width, height) if turned else (height, width)


def read(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads an image file.

    Raises:
        UserError: if it is no whole picture in one of `FORMATS`, or one with too many pixels.
    """
    with decoding.opened(path, max_pixels) as picture:
        pixels = decoding.pixels_of(path, picture)
        return Photo(pixels, decoding.exif_of(picture), picture.info.get("icc_profile"))


def check_writable(path: Path, photo: Photo) -> None:
    """Raises UserError if the format of a file's extension cannot hold the photo at all."""
    try:
        check_holds(FORMATS[path.suffix.lower()], photo.pixels.shape)
    except UserError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def write(path: Path, photo: Photo, quality: int = QUALITY) -> None:
    """Writes an image file in the format of its extension; it appears whole or not at all.

    What the format cannot hold is converted: 16 bits are rounded to 8, grey is made RGB.

    Args:
        path: of the file.
        photo: what it shall hold.
        quality: from 1 to 100, of JPEG and WebP; at 100 WebP is lossless.

    Raises:
        UserError: if the format cannot hold the photo, or the file cannot be written.
    """
    try:
        file_format = FORMATS[path.suffix.lower()]
        data = encode(photo.pixels, file_format, photo.exif, photo.icc_profile, quality)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except Exception as error:  # encoders complain of sizes and metadata in many ways
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
