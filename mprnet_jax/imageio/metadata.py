"""What image files say of a photo besides its pixels."""

import io
import re
import struct
from typing import Any, NamedTuple

from PIL import Image
from PIL.ExifTags import Base

from mprnet_jax.imageio.damage import DECODER_ERRORS, claims_too_much

MAX_PROFILE = 16 * 2**20  # bytes of a colour profile or a text when decompressed
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns
# As XMP holds it, as an attribute or as an element.
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>))([0-9])")


class Metadata(NamedTuple):
    """What is known of a photo whose pixels stand upright.

    Attributes:
        exif: EXIF data without orientation and thumbnail, as `Image.Exif.tobytes` gives them.
        icc_profile: the colour profile.
        resolution: pixels per inch, horizontally and vertically.
        xmp: an XMP packet.
        iptc: records of IPTC-IIM.
        text: pairs of keyword and text.
        colours: name and data of PNG's chunks that say how its numbers are meant.
        left_out: what the file says besides, and what of its pixels was not taken.
    """

    exif: bytes = b""
    icc_profile: bytes | None = None
    resolution: tuple[float, float] | None = None
    xmp: bytes = b""
    iptc: bytes = b""
    text: tuple[tuple[str, str], ...] = ()
    colours: tuple[tuple[bytes, bytes], ...] = ()
    left_out: tuple[str, ...] = ()


def parse_exif(data: bytes) -> Image.Exif:
    """Parses EXIF data; what is corrupt counts as none, for it must not cost the photo."""
    exif, tiff = Image.Exif(), data.removeprefix(b"Exif\0\0")
    try:
        order = "<" if tiff.startswith(b"II") else ">"
        if tiff and claims_too_much(
            io.BytesIO(tiff), order, False, *struct.unpack_from(order + "I", tiff, 4)
        ):
            return exif
        exif.load(data)
    except DECODER_ERRORS:
        return Image.Exif()
    return exif


def orientation_of(exif: Image.Exif, xmp: bytes) -> int:
    """Returns the orientation of stored pixels (EXIF's tag 274), of XMP where EXIF has none."""
    try:
        orientation: Any = exif.get(Base.Orientation)
    except DECODER_ERRORS:
        orientation = None
    if orientation is None and (found := XMP_ORIENTATION.search(xmp)):
        orientation = int(found[2])
    return orientation if orientation in range(1, 9) else 1


def upright_exif(exif: Image.Exif, orientation: int = 1) -> bytes:
    """Returns EXIF data without orientation and thumbnail; b"" if it is corrupt."""
    try:
        if Base.Orientation in exif:
            del exif[Base.Orientation]
        x, y = (exif.get(tag) for tag in (Base.XResolution, Base.YResolution))
        if orientation in TRANSPOSED and x and y:
            exif[Base.XResolution], exif[Base.YResolution] = y, x
        return exif.tobytes() if len(exif) else b""
    except DECODER_ERRORS:
        return b""


def upright_xmp(xmp: bytes) -> bytes:
    """Returns an XMP packet that says that pixels stand upright, if it says something of it."""
    return XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def upright_resolution(
    resolution: tuple[float, float] | None, orientation: int
) -> tuple[float, float] | None:
    """Exchanges the two numbers where the orientation exchanges rows and columns."""
    if resolution and orientation in TRANSPOSED:
        return resolution[::-1]
    return resolution


def resolution_of(exif: Image.Exif) -> tuple[float, float] | None:
    """Returns pixels per inch as EXIF's tags give them."""
    try:
        scale = {2: 1.0, 3: 2.54}.get(exif.get(Base.ResolutionUnit, 2), 0)
        values = [float(exif[tag]) * scale for tag in (Base.XResolution, Base.YResolution)]
    except DECODER_ERRORS:
        return None
    return checked_resolution(values)


def checked_resolution(values: Any) -> tuple[float, float] | None:
    """Returns two numbers of pixels per inch; None if they are none, or absurd."""
    try:
        x, y = map(float, values)
    except DECODER_ERRORS:
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None
