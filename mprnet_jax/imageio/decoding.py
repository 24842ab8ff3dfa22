"""From an image file to pixels and metadata, trusting nothing in it.

Pillow decodes all but colours of 16 bits, of which it would keep 8: those are OpenCV's.
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

from mprnet_jax.data.pairs import png_depth_and_type
from mprnet_jax.errors import UserError, one_line

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # no other is ever tried

# Pillow's mode of a picture -> the mode it is restored in.
MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's number for the colour type
OPENCV_ORDER = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}  # where our channels are

# The tags of a TIFF file that tell of the photo, not of how its pixels are stored.
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
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns


@contextlib.contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """A picture of which only the header was read; failures in the block become `UserError`."""
    try:
        # Given a path, Pillow would map some TIFF files into memory and mistake turned ones' rows.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise UserError(
                    f"{path}: has {width}x{height} pixels, more than {max_pixels / 1e6:g} million; "
                    "crop it or raise --max_megapixels"
                )
            # Some cameras' JPEG files (MPO) hold a preview as a second picture.
            if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
                raise UserError(f"{path}: holds {picture.n_frames} pictures; save them one by one")
            yield picture
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is not a PNG, JPEG, WebP, TIFF or BMP picture") from error
    except Exception as error:  # decoders raise whatever the damage leads to
        raise UserError(f"{path}: cannot be read ({one_line(error)}); replace it") from error


def pixels_of(path: Path, picture: Image.Image) -> np.ndarray:
    """The upright pixels of an opened file.

    Raises:
        UserError: if its colours are not grey or RGB of up to 16 bits.
    """
    bits, channels = bits_and_channels(picture)  # before EXIF, with which Pillow closes some files
    orientation = orientation_of(path, picture)
    if bits == 16:
        return upright(deep_pixels_of(path, picture, channels), orientation)
    mode = MODES.get(picture.mode)
    if mode is None:
        raise UserError(f"{path}: has colours of kind {picture.mode}; convert it to RGB")
    if "transparency" in picture.info:
        mode = WITH_ALPHA.get(mode, mode)
        if picture.format == "PNG" and picture.mode == "L":
            # Pillow scales grey of 2 and 4 bits to 8, but not the value that is transparent.
            picture.info["transparency"] *= 255 // (2**bits - 1)
    pixels = np.asarray(picture.convert(mode))
    return upright(pixels.reshape(*pixels.shape[:2], -1), orientation)


def bits_and_channels(picture: Image.Image) -> tuple[int, int]:
    """Bits a channel and channels of an opened file, by its header."""
    if picture.format == "PNG":
        bits, colour_type = png_depth_and_type(picture)
        return bits, PNG_CHANNELS.get(colour_type, 0)
    if picture.format == "TIFF":
        bits = set(picture.tag_v2.get(Base.BitsPerSample, ()))
        return (16 if bits == {16} else 8), picture.tag_v2.get(Base.SamplesPerPixel, 1)
    return 8, len(picture.getbands())


def deep_pixels_of(path: Path, picture: Image.Image, channels: int) -> np.ndarray:
    """The pixels of a file with 16 bits a channel, upright if it is TIFF."""
    if picture.format == "TIFF":
        tags = picture.tag_v2
        plain = tags.get(Base.PhotometricInterpretation) == (1 if channels < 3 else 2)
        plain &= set(tags.get(Base.SampleFormat, (1,))) == {1}  # integers
        plain &= tags.get(Base.PlanarConfiguration, 1) == 1  # channels beside each other
        plain &= channels not in (2, 4) or tags.get(Base.ExtraSamples, (2,)) == (2,)  # plain alpha
        if not plain or channels > 4:
            raise UserError(f"{path}: has 16-bit colours of a rare kind; convert it to RGB")
    picture.load()  # complains of damage that OpenCV may pass over
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[1::-1] != picture.size:
        raise UserError(f"{path}: its 16-bit pixels cannot be decoded; save it anew")
    pixels = np.atleast_3d(decoded)[..., OPENCV_ORDER[channels]]
    if "transparency" in picture.info:  # the one colour that PNG's tRNS chunk makes transparent
        opaque = (pixels != picture.info["transparency"]).any(axis=2, keepdims=True)
        pixels = np.concatenate([pixels, opaque.astype(np.uint16) * 65535], axis=2)
    return pixels


def orientation_of(path: Path, picture: Image.Image) -> int:
    """How stored pixels must be turned, EXIF's tag 274; TIFF files are turned by their decoders."""
    if picture.format == "TIFF" or (picture.format == "PNG" and not may_have_exif(path)):
        return 1
    try:
        return picture.getexif().get(Base.Orientation, 1)
    except Exception:  # damaged metadata must not keep a photo from being restored
        return 1


def may_have_exif(path: Path) -> bool:
    """Whether a PNG file has chunks that Pillow finds EXIF data in, for which it decodes all."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            if header[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)
    return False


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels as EXIF's tag 274 says."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def exif_of(picture: Image.Image) -> bytes:
    """The photo's EXIF data without its orientation; nothing if they are damaged."""
    try:
        exif = picture.getexif()
        dropped = {Base.Orientation}
        if picture.format == "TIFF":
            dropped |= set(exif) - DESCRIPTIVE_TAGS
            # It lies in a file that Pillow has closed.
            if ExifTags.IFD.Exif in exif:
                exif.get_ifd(ExifTags.IFD.Exif).pop(ExifTags.IFD.Interop, None)
        for tag in dropped & set(exif):
            del exif[tag]
        return exif.tobytes() if len(exif) else b""
    except Exception:  # as for the orientation
        return b""
