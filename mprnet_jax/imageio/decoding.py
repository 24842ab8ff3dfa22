"""Decodes image files of untrusted origin: the one reader of photos and of pairs.

Files are told apart by their content, and no decoder but those of known formats is ever tried.
Pixels are as in `photos`.
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import cv2
import numpy as np
from PIL import Image

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import jpeg, plugins, png
from mprnet_jax.imageio import metadata as meta
from mprnet_jax.imageio.colours import to_array
from mprnet_jax.imageio.damage import report_damage
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.pixels import upright
from mprnet_jax.imageio.tiff import TiffFile
from mprnet_jax.imageio.tiff_directories import SIGNATURES

# OpenCV would print its own messages for damaged files.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

PILLOW_FORMATS = ("JPEG", "WEBP", "BMP", "AVIF")
HEAD = 4096  # bytes at the beginning, which tell the format
KNOWN = "PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC"


class PictureFile(Protocol):
    """An opened image file of one or more pages; no pixel is decoded yet."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each upright page."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels of the first page."""

    @property
    def is_plain(self) -> bool:
        """Whether it is PNG or JPEG, upright as stored, without alpha and inks."""

    def pixels(self, index: int) -> np.ndarray:
        """Decodes a page to upright pixels [H, W, C]; raises UserError if it is damaged."""

    def metadata(self, index: int) -> Metadata:
        """Returns what the file says of a page; to be called after `pixels`."""

    def close(self) -> None:
        """Frees what was read; who opened the file closes it."""


@contextlib.contextmanager
def open_picture(
    file: Path | BinaryIO, name: str, max_pixels: int, remedy: str
) -> Iterator[PictureFile]:
    """Opens a file and checks its headers.

    Args:
        file: a path or an opened file.
        name: what error messages call it.
        max_pixels: the most pixels that all its pages may have together.
        remedy: what error messages advise where they have more.

    Raises:
        UserError: if the file is not a still picture of a known format, or has too many pixels.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(file, Path):
            with report_damage(name):
                file = stack.enter_context(file.open("rb"))
        picture = stack.enter_context(contextlib.closing(_open(file, name)))
        total = sum(height * width for height, width in picture.sizes)
        if total > max_pixels:
            height, width = picture.sizes[0]
            what = f"{width}x{height} pixels"
            if len(picture.sizes) > 1:
                what = f"{total} pixels on {len(picture.sizes)} pages"
            raise UserError(f"{name}: has {what}, more than {max_pixels / 1e6:g} million; {remedy}")
        yield picture


def _open(file: BinaryIO, name: str) -> PictureFile:
    with report_damage(name):
        head = file.read(HEAD)
        file.seek(0)
    if head.startswith(png.SIGNATURE):
        return PngFile(file, name)
    if head.startswith(SIGNATURES):
        return TiffFile(file, name)
    return PillowFile(file, name, head)


class PngFile:
    """An opened PNG file."""

    def __init__(self, file: BinaryIO, name: str):
        """Reads the header and finds the chunks; raises UserError if it is damaged."""
        self._file, self._name = file, name
        with report_damage(name):
            self._header = png.read_header(file)
            self._chunks = png.list_chunks(file)
            needed = {b"IDAT", b"PLTE"} if self._header.has_palette else {b"IDAT"}
            if not needed <= {chunk.name for chunk in self._chunks}:
                raise ValueError("no pixels, or no palette")
            for chunk in self._chunks:
                if chunk.name == b"acTL" and chunk.length == 8:
                    refuse_animation(name, *struct.unpack(">I4x", png.read_chunk(file, chunk)))
        self._metadata: Metadata | None = None
        if any(chunk.name not in png.PIXELS for chunk in self._chunks):
            with report_damage(name):
                self._metadata = png.read_metadata(file, self._chunks)
        known = self._metadata or Metadata()
        self._exif = meta.parse_exif(known.exif)
        self._orientation = meta.orientation_of(self._exif, known.xmp)
        size = self._header.height, self._header.width
        self.sizes = [size[::-1] if self._orientation in meta.TRANSPOSED else size]
        self.dtype = np.dtype(np.uint16 if self._header.bits == 16 else np.uint8)
        self.is_plain = self._orientation == 1 and self._header.channels in (1, 3)

    def close(self) -> None:
        """Does nothing: who opened the file closes it."""

    def pixels(self, index: int) -> np.ndarray:
        """Decodes the picture; Pillow would reduce colours of 16 bits to 8."""
        with report_damage(self._name):
            file = png.without_metadata(self._file, self._chunks)
            picture = Image.open(file, formats=("PNG",))
        with picture:
            if self._header.bits == 16:
                pixels = self._decode_16_bits(file, picture)
            else:
                if "transparency" in picture.info and picture.mode == "L":
                    # Pillow scales grey of 2 and 4 bits to 8, but not the transparent value.
                    picture.info["transparency"] *= 255 // (2**self._header.bits - 1)
                pixels = to_array(self._name, picture)
        return upright(pixels, self._orientation)

    def _decode_16_bits(self, file: BinaryIO, picture: Image.Image) -> np.ndarray:
        transparent = picture.info.get("transparency")
        with report_damage(self._name):
            picture.load()  # finds damage that OpenCV may ignore
            file.seek(0)
            decoded = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        # Position of each of our channels in OpenCV's output (BGRA).
        order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[self._header.channels]
        decoded = None if decoded is None else np.atleast_3d(decoded)
        if (
            decoded is None
            or decoded.dtype != np.uint16
            or decoded.shape[:2] != (self._header.height, self._header.width)
            or max(order) >= decoded.shape[2]
        ):
            raise UserError(f"{self._name}: its 16-bit pixels cannot be decoded; save it anew")
        pixels = decoded[..., order]
        if transparent is not None:  # one colour
            opaque = (pixels != transparent).any(axis=2, keepdims=True)
            pixels = np.concatenate([pixels, opaque.astype(np.uint16) * 65535], axis=2)
        return pixels

    def metadata(self, index: int) -> Metadata:
        """Returns what the file says of the picture."""
        known = self._metadata or Metadata()
        return known._replace(
            exif=meta.upright_exif(self._exif, self._orientation),
            xmp=meta.upright_xmp(known.xmp),
            resolution=meta.upright_resolution(known.resolution, self._orientation),
        )


class PillowFile:
    """An opened file of one of the formats that Pillow or its plugins decode."""

    dtype = np.dtype(np.uint8)

    def __init__(self, file: BinaryIO, name: str, head: bytes):
        """Reads the header; raises UserError if it is damaged, unknown, or animated."""
        self._name, self._head = name, head
        formats = (*PILLOW_FORMATS, *plugins.formats_for(head, name))
        with report_damage(name):
            try:
                self._picture = Image.open(file, formats=formats)
            except Image.UnidentifiedImageError as error:
                raise UserError(f"{name}: is not a {KNOWN} picture") from error
            self._format = self._picture.format or ""
            frames = getattr(self._picture, "n_frames", 1)
        # Pictures behind the first are previews, other views and the like in these.
        self._others = frames > 1 and self._format in ("MPO", "HEIF")
        if not self._others:
            refuse_animation(name, frames)
        info = self._picture.info
        self._exif = meta.parse_exif(bytes(info.get("exif") or b""))
        xmp = info.get("xmp") or b""
        self._xmp = xmp.encode() if isinstance(xmp, str) else xmp
        self._orientation = meta.orientation_of(self._exif, self._xmp)
        self._inks = self._picture.mode == "CMYK"
        width, height = self._picture.size
        self.is_plain = self._format == "JPEG" and self._orientation == 1 and not self._inks
        transposed = self._orientation in meta.TRANSPOSED
        self.sizes = [(width, height) if transposed else (height, width)]

    def close(self) -> None:
        """Frees what Pillow holds."""
        self._picture.close()

    def pixels(self, index: int) -> np.ndarray:
        """Decodes the picture."""
        return upright(to_array(self._name, self._picture), self._orientation)

    def metadata(self, index: int) -> Metadata:
        """Returns what the file says of the picture."""
        info = self._picture.info
        is_jpeg = self._format in ("JPEG", "MPO")
        iptc, text, left_out = jpeg.describe(self._picture) if is_jpeg else (b"", (), [])
        if self._others:
            left_out.append("further pictures in the file, such as previews")
        if self._inks:
            left_out.append("CMYK (it is RGB now)")
        left_out += plugins.left_out_of(self._format, self._head, info)
        resolution = meta.checked_resolution(info.get("dpi")) or meta.resolution_of(self._exif)
        return Metadata(
            exif=meta.upright_exif(self._exif, self._orientation),
            icc_profile=None if self._inks else info.get("icc_profile") or None,
            resolution=meta.upright_resolution(resolution, self._orientation),
            xmp=meta.upright_xmp(self._xmp),
            iptc=iptc,
            text=text,
            colours=plugins.colours_of(self._format, self._head),
            left_out=tuple(left_out),
        )


def refuse_animation(name: str, frames: int) -> None:
    """Raises UserError unless a picture has one frame."""
    if frames > 1:
        raise UserError(
            f"{name}: is animated ({frames} frames); save it as a video, or its frames one by one"
        )
