"""Decodes image files of untrusted origin to pixels and metadata.

Pillow decodes all but colours of 16 bits, which it would reduce to 8 bits; OpenCV decodes those.
Pixels are as in `photos`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mprnet_jax.errors import UserError
from mprnet_jax.imageio.headers import DECODER_ERRORS, png_depth_and_type, report_damage

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # the only decoders that are ever tried

# Pillow's mode of a picture -> the mode it is converted to.
MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's number for the colour type
# Position of each of our channels in OpenCV's output (BGRA).
OPENCV_ORDER = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}  # by number of channels

# The tags of a TIFF file that describe the photo, not how its pixels are stored.
DESCRIPTIVE_TAGS = {
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.XResolution,
    Base.YResolution,
    Base.ResolutionUnit,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.Copyright,
    ExifTags.IFD.Exif,
    ExifTags.IFD.GPSInfo,
}
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns


@contextlib.contextmanager
def open_picture(path: Path, max_pixels: int) -> Iterator[ImageFile]:
    """Opens a picture and checks its header; no pixel is decoded yet.

    Raises:
        UserError: if the file is not one picture in one of `FORMATS`, or has too many pixels.
    """
    with contextlib.ExitStack() as stack:
        with report_damage(path):
            # Given a path, Pillow would map some TIFF files into memory and, where orientation
            # exchanges rows and columns, get the length of rows wrong.
            file = stack.enter_context(path.open("rb"))
            try:
                picture = stack.enter_context(Image.open(file, formats=FORMATS))
            except UnidentifiedImageError as error:
                raise UserError(f"{path}: is not a PNG, JPEG, WebP, TIFF or BMP picture") from error
        width, height = picture.size
        if width * height > max_pixels:
            raise UserError(
                f"{path}: has {width}x{height} pixels, more than {max_pixels / 1e6:g} million; "
                "crop it or raise --max_megapixels"
            )
        with report_damage(path):
            # JPEG files of some cameras (MPO) hold a preview as a second picture.
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        if frames > 1:
            raise UserError(f"{path}: holds {frames} pictures; save them one by one")
        yield picture


def decode_pixels(path: Path, picture: ImageFile) -> np.ndarray:
    """Decodes an opened file to upright pixels [H, W, C].

    Raises:
        UserError: if the file is damaged, or its colours are not grey or RGB of up to 16 bits.
    """
    # Before EXIF is read, because Pillow closes some files then.
    bits, channels = bits_and_channels(picture)
    orientation = orientation_of(path, picture)
    if bits == 16:
        return upright(decode_16_bits(path, picture, channels), orientation)
    mode = MODES.get(picture.mode)
    if mode is None:
        raise UserError(f"{path}: has colour mode {picture.mode}; convert it to RGB")
    if "transparency" in picture.info:
        mode = WITH_ALPHA.get(mode, mode)
        if picture.format == "PNG" and picture.mode == "L" and bits in (2, 4):
            # Pillow scales grey of 2 and 4 bits to 8, but not the value that is transparent.
            picture.info["transparency"] *= 255 // (2**bits - 1)
    with report_damage(path):
        pixels = np.asarray(picture.convert(mode))
    return upright(pixels.reshape(*pixels.shape[:2], -1), orientation)


def bits_and_channels(picture: ImageFile) -> tuple[int, int]:
    """Returns the bits per channel and the number of channels of an opened file."""
    if picture.format == "PNG":
        bits, colour_type = png_depth_and_type(picture)
        return bits, PNG_CHANNELS.get(colour_type, 0)
    if isinstance(picture, TiffImageFile):
        bits_of_channels = set(picture.tag_v2.get(Base.BitsPerSample, ()))
        deep = bits_of_channels == {16}
        return (16 if deep else 8), picture.tag_v2.get(Base.SamplesPerPixel, 1)
    return 8, len(picture.getbands())


def decode_16_bits(path: Path, picture: ImageFile, channels: int) -> np.ndarray:
    """Decodes a file with 16 bits per channel; TIFF files come out upright."""
    if isinstance(picture, TiffImageFile):
        tags = picture.tag_v2
        common = tags.get(Base.PhotometricInterpretation) == (1 if channels < 3 else 2)
        common &= set(tags.get(Base.SampleFormat, (1,))) == {1}  # integers
        common &= tags.get(Base.PlanarConfiguration, 1) == 1  # channels are interleaved
        # Alpha is not multiplied into the colours.
        common &= channels not in (2, 4) or tags.get(Base.ExtraSamples, (2,)) == (2,)
    else:
        common = True
    order = OPENCV_ORDER.get(channels)
    if order is None or not common:
        raise UserError(f"{path}: is stored in an unsupported 16-bit layout; convert it to RGB")
    with report_damage(path):
        picture.load()  # finds damage that OpenCV may ignore
        decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if (
        decoded is None
        or decoded.dtype != np.uint16
        or decoded.shape[1::-1] != picture.size
        or max(order) >= (decoded.shape[2] if decoded.ndim == 3 else 1)
    ):
        raise UserError(f"{path}: its 16-bit pixels cannot be decoded; save it anew")
    pixels = np.atleast_3d(decoded)[..., order]
    if "transparency" in picture.info:  # the one colour that PNG's tRNS chunk makes transparent
        opaque = (pixels != picture.info["transparency"]).any(axis=2, keepdims=True)
        pixels = np.concatenate([pixels, opaque.astype(np.uint16) * 65535], axis=2)
    return pixels


def orientation_of(path: Path, picture: ImageFile) -> int:
    """Returns EXIF's orientation of stored pixels (tag 274), 1 where the decoder applies it.

    Damaged metadata count as none: they must not keep a photo from being restored.
    """
    if picture.format == "TIFF" or (picture.format == "PNG" and not may_have_exif(path)):
        return 1
    try:
        return picture.getexif().get(Base.Orientation, 1)
    except DECODER_ERRORS:
        return 1


def may_have_exif(path: Path) -> bool:
    """Whether a PNG file has chunks that may hold EXIF; to read them Pillow decodes the file."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            if header[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)
    return False


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies EXIF's orientation (tag 274) to stored pixels [H, W, C]."""
    if orientation in TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def exif_bytes(picture: ImageFile) -> bytes:
    """Returns the photo's EXIF data without its orientation; b"" if it is corrupt."""
    try:
        exif = picture.getexif()
        if picture.format == "TIFF" and ExifTags.IFD.Exif in exif:
            # The directory of interoperability lies in a file that Pillow has closed.
            exif.get_ifd(ExifTags.IFD.Exif).pop(ExifTags.IFD.Interop, None)
    except DECODER_ERRORS:
        return b""
    dropped: set[int] = {Base.Orientation}
    if picture.format == "TIFF":
        dropped |= set(exif) - DESCRIPTIVE_TAGS
    for tag in dropped & set(exif):
        del exif[tag]
    try:
        return exif.tobytes() if len(exif) else b""
    except DECODER_ERRORS:
        return b""
