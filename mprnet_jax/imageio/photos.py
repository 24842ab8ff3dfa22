"""Reads and writes photos: PNG, JPEG, WebP, AVIF, TIFF, BMP, and with an extra HEIC.

Pixels are [H, W, C]; C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB and alpha. They
are uint8, uint16 (PNG and TIFF), or float16 or float32 in [0, 1] (TIFF). They stand upright: EXIF's
orientation is applied on reading and left out on writing. A TIFF file may hold several pages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.decoding import open_picture
from mprnet_jax.imageio.encoding import ENCODER_ERRORS, check_format, encode
from mprnet_jax.imageio.metadata import Metadata

# File extension -> format.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
EXTENSIONS = {
    "png": ".png",
    "jpeg": ".jpg",
    "webp": ".webp",
    "avif": ".avif",
    "tiff": ".tif",
    "bmp": ".bmp",
    "heic": ".heic",
}
MAX_PIXELS = 100_000_000
QUALITY = 95
REMEDY = "crop it or raise --max_megapixels"


class Photo(NamedTuple):
    """The contents of an image file, or of one page of it."""

    pixels: np.ndarray
    metadata: Metadata = Metadata()


def sizes_of(path: Path, max_pixels: int = MAX_PIXELS) -> list[tuple[int, int]]:
    """Returns the height and width of each upright page, from the file's headers.

    Raises:
        UserError: if the file is not a picture, or has more than `max_pixels` pixels.
    """
    with open_picture(path, str(path), max_pixels, REMEDY) as picture:
        return picture.sizes


def read_pages(path: Path, max_pixels: int = MAX_PIXELS) -> list[Photo]:
    """Reads all pages of an image file; files of most formats have one.

    Raises:
        UserError: if the file is not a whole still picture in one of `FORMATS`, has more than
            `max_pixels` pixels on all pages together, or does not fit into memory.
    """
    try:
        with open_picture(path, str(path), max_pixels, REMEDY) as picture:
            indices = range(len(picture.sizes))
            return [Photo(picture.pixels(i), picture.metadata(i)) for i in indices]
    except MemoryError as error:
        raise UserError(f"{path}: cannot be read, memory is too small; crop it") from error


def read(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads an image file of one page; raises UserError as `read_pages` does, and for more pages.

    Raises:
        UserError: as `read_pages`, and if the file has several pages.
    """
    sizes = sizes_of(path, max_pixels)
    if len(sizes) > 1:
        raise UserError(f"{path}: holds {len(sizes)} pages; save them one by one")
    return read_pages(path, max_pixels)[0]


def format_of(path: Path) -> str:
    """Returns the value of `FORMATS` for a file's extension; raises UserError if there is none."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: must end in {', '.join(FORMATS)}")
    return file_format


def check_format_supports(path: Path, pages: Sequence[Photo]) -> None:
    """Raises UserError if the format of a file's extension cannot hold the pages at all."""
    file_format = format_of(path)
    try:
        for page in pages:
            check_format(file_format, page.pixels.shape, len(pages))
    except UserError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def write(path: Path, photo: Photo | Sequence[Photo], quality: int = QUALITY) -> list[str]:
    """Writes an image file in the format of its extension, whole or not at all.

    What the format cannot hold is converted or left out: deep pixels are rounded, grey becomes RGB.

    Args:
        path: of the file; missing folders are made.
        photo: the contents, or those of each page.
        quality: from 1 to 100, of JPEG, WebP, AVIF and HEIC; at 100 WebP is lossless.

    Returns:
        What was left out of what is known of the photo, and what `read` had left out before.

    Raises:
        UserError: if the format cannot hold the photo, or the file cannot be written.
    """
    file_format = format_of(path)
    pages = [photo] if isinstance(photo, Photo) else list(photo)
    try:
        data, left_out = encode([(p.pixels, p.metadata) for p in pages], file_format, quality)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except (UserError, *ENCODER_ERRORS) as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    before = [what for page in pages for what in page.metadata.left_out]
    return list(dict.fromkeys(before + left_out))
