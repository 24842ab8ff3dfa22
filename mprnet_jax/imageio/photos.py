"""Reads and writes photos: PNG, JPEG, WebP, TIFF and BMP of 8 bits, PNG and TIFF also of 16.

Pixels are [H, W, C], uint8 or uint16; C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB
and alpha. They stand upright: EXIF's orientation is applied on reading and left out on writing.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio import decoding
from mprnet_jax.imageio.encoding import ENCODER_ERRORS, check_format, encode

# File extension -> format.
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
    """The contents of an image file."""

    pixels: np.ndarray
    exif: bytes = b""
    icc_profile: bytes | None = None


def size_of(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the height and width of the upright photo, from the file's header.

    Raises:
        UserError: if the file is not a picture, or has more than `max_pixels` pixels.
    """
    with decoding.open_picture(path, max_pixels) as picture:
        width, height = picture.size
        transposed = decoding.orientation_of(path, picture) in decoding.TRANSPOSED
        return (width, height) if transposed else (height, width)


def read(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads an image file.

    Raises:
        UserError: if the file is not a whole picture in one of `FORMATS`, has more than
            `max_pixels` pixels, or does not fit into memory.
    """
    try:
        with decoding.open_picture(path, max_pixels) as picture:
            pixels = decoding.decode_pixels(path, picture)
            return Photo(pixels, decoding.exif_bytes(picture), picture.info.get("icc_profile"))
    except MemoryError as error:
        raise UserError(f"{path}: cannot be read, memory is too small; crop it") from error


def format_of(path: Path) -> str:
    """Returns the value of `FORMATS` for a file's extension; raises UserError if there is none."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: must end in {', '.join(FORMATS)}")
    return file_format


def check_format_supports(path: Path, photo: Photo) -> None:
    """Raises UserError if the format of a file's extension cannot hold the photo at all."""
    file_format = format_of(path)
    try:
        check_format(file_format, photo.pixels.shape)
    except UserError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def write(path: Path, photo: Photo, quality: int = QUALITY) -> None:
    """Writes an image file in the format of its extension, whole or not at all.

    What the format cannot hold is converted: 16 bits are rounded to 8, grey becomes RGB.

    Args:
        path: of the file; missing folders are made.
        photo: the contents.
        quality: from 1 to 100, of JPEG and WebP; at 100 WebP is lossless.

    Raises:
        UserError: if the format cannot hold the photo, or the file cannot be written.
    """
    file_format = format_of(path)
    try:
        data = encode(photo.pixels, file_format, photo.exif, photo.icc_profile, quality)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except (UserError, *ENCODER_ERRORS) as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
