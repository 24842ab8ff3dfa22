"""Encodes photos as the bytes of image files, and tells what a format cannot hold.

Pillow encodes most formats; PNG of 16 bits and TIFF are encoded in `png` and `tiff_encoding`.
Pixels are as in `photos`.
"""

import io
import struct
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import jpeg, plugins, png
from mprnet_jax.imageio import metadata as meta
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.pixels import to_dtype
from mprnet_jax.imageio.tiff_encoding import encode_tiff

# (format, channels) of grey that the format lacks or few programs read; it is written as RGB.
GREY_AS_RGB = {("WEBP", 1), ("WEBP", 2), ("BMP", 2), ("TIFF", 2), ("AVIF", 1), ("AVIF", 2)}
GREY_AS_RGB |= {("HEIF", 1), ("HEIF", 2)}

LONGEST_SIDE = {"WEBP": 16_383, "JPEG": 65_500, "AVIF": 65_535}  # in pixels
DEEP: dict[str, tuple[type, ...]] = {  # beside uint8
    "PNG": (np.uint16,),
    "TIFF": (np.uint16, np.float16, np.float32),
}
MAX_JPEG_ICC = 255 * 65_519  # bytes in all segments
# Keywords of texts -> the tag of EXIF with that meaning.
TEXT_TAGS = {
    "Title": Base.ImageDescription,
    "Description": Base.ImageDescription,
    "Comment": Base.ImageDescription,
    "Author": Base.Artist,
    "Copyright": Base.Copyright,
    "Software": Base.Software,
}

# What encoders and disks raise; sizes are checked before, but metadata come from anywhere.
ENCODER_ERRORS = (OSError, ValueError, cv2.error, struct.error)


def check_format(file_format: str, shape: tuple[int, ...], pages: int = 1) -> None:
    """Raises UserError if a format cannot hold so many pages of pixels of shape [H, W, C].

    Nor if it needs a plugin that is not installed.
    """
    if file_format == "HEIF":
        plugins.register_heic("HEIC")
    if pages > 1 and file_format != "TIFF":
        raise UserError(f"{file_format} holds one of its {pages} pages; choose tiff")
    if file_format == "JPEG" and shape[2] in (2, 4):
        raise UserError("JPEG has no alpha; choose png, webp, avif or tiff")
    longest = LONGEST_SIDE.get(file_format)
    if longest and max(shape[:2]) > longest:
        raise UserError(f"{file_format} holds up to {longest} pixels a side; choose png or tiff")


def encode(
    pages: Sequence[tuple[np.ndarray, Metadata]], file_format: str, quality: int
) -> tuple[bytes, list[str]]:
    """Encodes a photo; what the format cannot hold is converted or left out.

    Deep pixels are rounded to 8 bits except in PNG (16 bits) and TIFF, and grey becomes RGB where
    `GREY_AS_RGB` says so. Metadata that are damaged or too large are left out.

    Args:
        pages: pixels [H, W, C] and metadata of each page; only TIFF files have several.
        file_format: a value of `photos.FORMATS`.
        quality: from 1 to 100, of JPEG, WebP, AVIF and HEIC; at 100 WebP is lossless.

    Returns:
        The bytes of the file, and what was left out.

    Raises:
        UserError: if the format cannot hold the pixels at all; see `check_format`.
    """
    check_format(file_format, pages[0][0].shape, len(pages))
    left_out: list[str] = []
    converted = []
    for pixels, metadata in pages:
        pixels, metadata, lost = fit_pixels(pixels, metadata, file_format)
        metadata, also_lost = fit_metadata(metadata, file_format)
        converted.append((pixels, metadata))
        left_out += lost + also_lost
    try:
        return _encode(converted, file_format, quality), left_out
    except ENCODER_ERRORS:
        # Metadata come from anywhere: the photo is more than they are.
        if all(metadata == NOTHING for _, metadata in converted):
            raise
        bare = [(pixels, NOTHING) for pixels, _ in converted]
        return _encode(bare, file_format, quality), ["damaged metadata"]


def fit_pixels(
    pixels: np.ndarray, metadata: Metadata, file_format: str
) -> tuple[np.ndarray, Metadata, list[str]]:
    """Converts pixels to those that a format holds; returns what was left out, too."""
    left_out = []
    if pixels.dtype != np.uint8 and pixels.dtype not in DEEP.get(file_format, ()):
        deepest = np.dtype(DEEP.get(file_format, (np.uint8,))[0])
        bits, kept = 8 * pixels.itemsize, 8 * deepest.itemsize
        kind = "floats of " if pixels.dtype.kind == "f" else ""
        left_out.append(f"{kind}{bits} bits (rounded to {kept})")
        pixels = to_dtype(pixels, deepest)
    channels = pixels.shape[2]
    if (file_format, channels) in GREY_AS_RGB:
        pixels = pixels[..., [0, 0, 0, 1][: channels + 2]]
        if metadata.icc_profile:
            metadata = metadata._replace(icc_profile=None)
            left_out.append("colour profile (of grey)")
    return np.ascontiguousarray(pixels), metadata, left_out


def fit_metadata(metadata: Metadata, file_format: str) -> tuple[Metadata, list[str]]:
    """Puts metadata into the forms that a format has; returns what was left out, too."""
    left_out = []
    kept = metadata
    if file_format == "BMP":
        for name in ("exif", "icc_profile", "xmp", "iptc", "text", "colours"):
            if getattr(kept, name):
                left_out.append(WORDS[name])
        return Metadata(resolution=kept.resolution), left_out
    if kept.text and file_format != "PNG":
        exif, rest = text_as_exif(kept)
        kept = kept._replace(exif=exif, text=())
        if file_format == "JPEG":
            kept = kept._replace(text=tuple(entry for entry in rest if entry[0] == "Comment")[:1])
            rest = [entry for entry in rest if entry not in kept.text]
        left_out += [WORDS["text"]] if rest else []
    if kept.colours and file_format != "PNG":
        cicp = [c for c in kept.colours if c[0] == b"cICP" and file_format in ("AVIF", "HEIF")]
        lost = [name.decode() for name, _ in kept.colours if name not in (b"cICP", b"sRGB")]
        lost += ["cICP"] if not cicp and dict(kept.colours).get(b"cICP") else []
        left_out += [f"{WORDS['colours']} ({', '.join(lost)})"] if lost else []
        kept = kept._replace(colours=tuple(cicp))
    if kept.iptc and file_format in ("WEBP", "AVIF", "HEIF"):
        kept = kept._replace(iptc=b"")
        left_out.append(WORDS["iptc"])
    if kept.resolution and file_format in ("WEBP", "AVIF", "HEIF"):
        kept = kept._replace(exif=resolution_as_exif(kept))
    if file_format == "JPEG":
        limits = {"exif": 65_533, "xmp": 65_504, "iptc": 65_500, "icc_profile": MAX_JPEG_ICC}
        for name, limit in limits.items():
            if len(getattr(kept, name) or b"") > limit:
                kept = kept._replace(**{name: getattr(NOTHING, name)})
                left_out.append(f"{WORDS[name]} (too large for JPEG)")
    return kept, left_out


NOTHING = Metadata()
WORDS = {
    "exif": "EXIF data",
    "icc_profile": "colour profile",
    "xmp": "XMP",
    "iptc": "IPTC",
    "text": "text",
    "colours": "meaning of colours",
}


def text_as_exif(metadata: Metadata) -> tuple[bytes, list[tuple[str, str]]]:
    """Returns EXIF data with texts that EXIF has tags for, and the other texts."""
    exif, rest, used = meta.parse_exif(metadata.exif), [], False
    for keyword, value in metadata.text:
        tag = TEXT_TAGS.get(keyword)
        if tag is None or tag in exif:
            if tag is None or exif[tag] != value:
                rest.append((keyword, value))
            continue
        exif[tag], used = value, True
    return (meta.upright_exif(exif) if used else metadata.exif), rest


def resolution_as_exif(metadata: Metadata) -> bytes:
    """Returns EXIF data with the resolution."""
    assert metadata.resolution is not None
    exif = meta.parse_exif(metadata.exif)
    exif[Base.XResolution], exif[Base.YResolution] = metadata.resolution
    exif[Base.ResolutionUnit] = 2  # inches
    return meta.upright_exif(exif)


def _encode(pages: Sequence[tuple[np.ndarray, Metadata]], file_format: str, quality: int) -> bytes:
    if file_format == "TIFF":
        return encode_tiff(pages)
    ((pixels, metadata),) = pages
    if file_format == "PNG":
        if pixels.dtype == np.uint16:
            data = png.encode_16_bits(pixels)
        else:
            data = _save(pixels, "PNG", {"compress_level": png.DEFLATE_LEVEL})
        return png.insert_chunks(data, png.chunks_of(metadata))
    if file_format == "BMP" and pixels.shape[2] == 4:  # Pillow would lose alpha
        return cv2.imencode(".bmp", pixels[..., [2, 1, 0, 3]].copy())[1].tobytes()
    format_options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": "4:4:4"},
        "WEBP": {"quality": quality, "lossless": quality == 100, "exact": True},
        "AVIF": {"quality": quality, "subsampling": "4:4:4"},
        "HEIF": {"quality": quality, "chroma": 444},
        "BMP": {},
    }
    options = format_options[file_format]
    if file_format in ("JPEG", "BMP") and metadata.resolution:
        options["dpi"] = metadata.resolution
    for name in ("exif", "icc_profile", "xmp"):
        if value := getattr(metadata, name):
            options[name] = value
    for _, comment in metadata.text:
        options["comment"] = comment.encode()
    data = _save(pixels, file_format, options)
    if metadata.iptc:
        data = jpeg.insert_iptc(data, metadata.iptc)
    for _, cicp in metadata.colours:
        data = plugins.insert_colours(data, cicp)
    return data


def _save(pixels: np.ndarray, file_format: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(file, format=file_format, **options)
    return file.getvalue()
