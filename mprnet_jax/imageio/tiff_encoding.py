"""Writes TIFF files of 8 or 16 bits or of floats, with one page or more (TIFF 6.0, with Deflate).

Pillow and OpenCV lack kinds of pixels, and tifffile writes no nested EXIF directories.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mprnet_jax.imageio import metadata as meta
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.png import DEFLATE_LEVEL
from mprnet_jax.imageio.tiff_directories import (
    ALPHA,
    BLACK_IS_ZERO,
    FLOAT,
    IPTC,
    RGB,
    SAMPLE_FORMAT,
    XMP,
)


def encode_tiff(pages: Sequence[tuple[np.ndarray, Metadata]]) -> bytes:
    """Encodes pages, each of pixels [H, W, C], C being 1, 3 or 4, and their metadata."""
    file = bytearray(struct.pack("<2sHI", b"II", 42, 8))
    link = 4  # where the next page's directory is told
    for pixels, metadata in pages:
        file += bytes(len(file) % 2)
        position = len(file)
        struct.pack_into("<I", file, link, position)
        data = compress(pixels)
        directory = make_directory(pixels, len(data), metadata).tobytes(position)
        link = position + 2 + 12 * int.from_bytes(directory[:2], "little")
        file += directory
        file += data
    return bytes(file)


def compress(pixels: np.ndarray) -> bytes:
    """Compresses pixels: integers as differences from the left, floats as they are."""
    if pixels.dtype.kind == "u":
        pixels = np.diff(pixels, axis=1, prepend=pixels.dtype.type(0))
    ordered = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<")))
    return zlib.compress(ordered.view(np.uint8).data, DEFLATE_LEVEL)


def make_directory(
    pixels: np.ndarray, data_bytes: int, metadata: Metadata
) -> ImageFileDirectory_v2:
    """Makes the directory of a page whose data follow it."""
    height, width, channels = pixels.shape
    is_float = pixels.dtype.kind == "f"
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    exif = meta.parse_exif(metadata.exif)
    for tag in exif:
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            nested = exif.get_ifd(tag)
            nested.pop(ExifTags.IFD.Interop, None)  # an offset into the old file
            directory[tag] = nested
        else:
            directory[tag] = exif[tag]
    if metadata.icc_profile:
        directory[Base.InterColorProfile] = metadata.icc_profile
    if metadata.xmp:
        directory[XMP] = metadata.xmp
    if metadata.iptc:
        directory.tagtype[IPTC] = 7  # undefined
        directory[IPTC] = metadata.iptc
    if metadata.resolution:
        directory[Base.XResolution], directory[Base.YResolution] = metadata.resolution
        directory[Base.ResolutionUnit] = 2  # inches
    directory[Base.ImageWidth] = width
    directory[Base.ImageLength] = height
    directory[Base.BitsPerSample] = (8 * pixels.itemsize,) * channels
    directory[Base.Compression] = 8  # Deflate
    directory[Base.PhotometricInterpretation] = BLACK_IS_ZERO if channels == 1 else RGB
    directory[Base.StripOffsets] = 0  # Pillow adds the length of the directory
    directory[Base.SamplesPerPixel] = channels
    directory[Base.RowsPerStrip] = height
    directory[Base.StripByteCounts] = data_bytes
    directory[Base.Predictor] = 1 if is_float else 2  # none, or horizontal differences
    if channels == 4:
        directory[Base.ExtraSamples] = ALPHA
    if is_float:
        directory[SAMPLE_FORMAT] = (FLOAT,) * channels
    return directory
