"""Encodes pixels as the bytes of an image file.

Pillow encodes most formats. PNG of 16 bits and TIFF are encoded here: Pillow and OpenCV lack 16-bit
grey with alpha, and tifffile, which has all kinds of pixels, writes no nested EXIF directories.
Pixels are as in `photos`.
"""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mprnet_jax.errors import UserError

DEFLATE_LEVEL = 4  # of Deflate: half the time of the default for a few per cent more bytes
PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of channels

MAX_JPEG_EXIF = 65_533  # bytes; a JPEG segment holds no more

# (format, channels) of grey that the format lacks or few programs read; it is written as RGB.
GREY_AS_RGB = {("WEBP", 1), ("WEBP", 2), ("BMP", 2), ("TIFF", 2)}

LONGEST_SIDE = {"WEBP": 16_383, "JPEG": 65_500}  # in pixels, of formats with a low limit

# What encoders and disks raise; sizes are checked before, but metadata come from anywhere.
ENCODER_ERRORS = (OSError, ValueError, cv2.error, struct.error)


def check_format(file_format: str, shape: tuple[int, ...]) -> None:
    """Raises UserError if a format cannot hold pixels of shape [H, W, C]."""
    if file_format == "JPEG" and shape[2] in (2, 4):
        raise UserError("JPEG has no alpha; choose png, webp or tiff")
    longest = LONGEST_SIDE.get(file_format)
    if longest and max(shape[:2]) > longest:
        raise UserError(f"{file_format} holds up to {longest} pixels a side; choose png or tiff")


def encode(
    pixels: np.ndarray, file_format: str, exif: bytes, icc_profile: bytes | None, quality: int
) -> bytes:
    """Encodes pixels; what the format cannot hold is converted or dropped.

    16 bits are rounded to 8 except in PNG and TIFF, grey becomes RGB where `GREY_AS_RGB` says so
    (its colour profile is dropped), and JPEG files lose EXIF data above `MAX_JPEG_EXIF`.

    Args:
        pixels: [H, W, C].
        file_format: a value of `photos.FORMATS`.
        exif: EXIF data, or b"".
        icc_profile: the colour profile, if any.
        quality: from 1 to 100, of JPEG and WebP; at 100 WebP is lossless.

    Returns:
        The bytes of the file.

    Raises:
        UserError: if the format cannot hold the pixels at all; see `check_format`.
    """
    check_format(file_format, pixels.shape)
    if pixels.dtype == np.uint16 and file_format not in ("PNG", "TIFF"):
        pixels = np.rint(pixels / 257).astype(np.uint8)
    channels = pixels.shape[2]
    if (file_format, channels) in GREY_AS_RGB:
        pixels = pixels[..., [0, 0, 0, 1][: channels + 2]]
        icc_profile = None  # it is a profile for grey
    pixels = np.ascontiguousarray(pixels)
    if file_format == "TIFF":
        return encode_tiff(pixels, exif, icc_profile)
    if pixels.dtype == np.uint16:
        return encode_16bit_png(pixels, exif, icc_profile)
    if file_format == "BMP" and pixels.shape[2] == 4:  # Pillow would lose alpha
        return cv2.imencode(".bmp", pixels[..., [2, 1, 0, 3]].copy())[1].tobytes()
    format_options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": DEFLATE_LEVEL},
        "JPEG": {"quality": quality, "subsampling": "4:4:4"},
        "WEBP": {"quality": quality, "lossless": quality == 100, "exact": True},
        "BMP": {},
    }
    options = format_options[file_format]
    if exif and not (file_format == "JPEG" and len(exif) > MAX_JPEG_EXIF):
        options["exif"] = exif
    if icc_profile:
        options["icc_profile"] = icc_profile
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(file, format=file_format, **options)
    return file.getvalue()


def encode_16bit_png(pixels: np.ndarray, exif: bytes, icc_profile: bytes | None) -> bytes:
    """Encodes a PNG file of 16 bits (PNG specification, third edition)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    data = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    rows = np.ones((height, 1 + data.shape[1]), np.uint8)  # filter 1: minus the pixel to the left
    rows[:, 1:] = data
    rows[:, 1 + 2 * channels :] -= data[:, : -2 * channels]
    chunks = [(b"IHDR", header)]
    if icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(rows.data, DEFLATE_LEVEL)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def encode_tiff(pixels: np.ndarray, exif: bytes, icc_profile: bytes | None) -> bytes:
    """Encodes a TIFF file of 8 or 16 bits (TIFF 6.0, with Deflate)."""
    height, width, channels = pixels.shape
    differences = np.diff(pixels, axis=1, prepend=pixels.dtype.type(0))
    data = zlib.compress(differences.astype(pixels.dtype.newbyteorder("<")).data, DEFLATE_LEVEL)
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    metadata = Image.Exif()
    metadata.load(exif)
    for tag in metadata:
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            nested = metadata.get_ifd(tag)
            nested.pop(ExifTags.IFD.Interop, None)  # an offset into the old file
            directory[tag] = nested
        else:
            directory[tag] = metadata[tag]
    if icc_profile:
        directory[Base.InterColorProfile] = icc_profile
    directory[Base.ImageWidth] = width
    directory[Base.ImageLength] = height
    directory[Base.BitsPerSample] = (8 * pixels.itemsize,) * channels
    directory[Base.Compression] = 8  # Deflate
    black_is_zero, rgb = 1, 2
    directory[Base.PhotometricInterpretation] = black_is_zero if channels == 1 else rgb
    directory[Base.StripOffsets] = 0  # Pillow adds the length of the directory
    directory[Base.SamplesPerPixel] = channels
    directory[Base.RowsPerStrip] = height
    directory[Base.StripByteCounts] = len(data)
    directory[Base.Predictor] = 2  # horizontal differences
    if channels == 4:
        directory[Base.ExtraSamples] = 2  # alpha that is not multiplied into the colours
    file = io.BytesIO()
    directory.save(file)
    file.write(data)
    return file.getvalue()
