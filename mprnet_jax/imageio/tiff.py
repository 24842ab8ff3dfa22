"""Reads TIFF files: all pages, of up to 16 bits a channel or of floats.

Pillow decodes up to 8 bits. OpenCV decodes the rest, apart from kinds that it gets wrong or does
not know: those are presented to it as others, by editing a copy of the file's directory.
"""

import io
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffTags
from PIL.ExifTags import Base

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import metadata as meta
from mprnet_jax.imageio.colours import to_array
from mprnet_jax.imageio.damage import DECODER_ERRORS, report_damage
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.pixels import divide_by_alpha, upright
from mprnet_jax.imageio.tiff_directories import (
    ALPHA,
    BLACK_IS_ZERO,
    COLOURS,
    DESCRIPTIVE,
    FLOAT,
    IMAGEJ,
    INKS,
    INTEGER,
    IPTC,
    PREMULTIPLIED,
    SAMPLE_FORMAT,
    SHAPE,
    STRUCTURAL,
    SUBFILE,
    TILE_BYTE_COUNTS,
    TILE_OFFSETS,
    WHITE_IS_ZERO,
    XMP,
    Directories,
    Page,
)

# Kinds of more than 8 bits: sample format and bits a channel -> type of the pixels.
DEEP: dict[tuple[int, int], type] = {
    (INTEGER, 16): np.uint16,
    (FLOAT, 16): np.float16,
    (FLOAT, 32): np.float32,
    (FLOAT, 64): np.float32,
}
COMPRESSIONS = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits: of more than 8 bits


class TiffFile:
    """An opened TIFF file."""

    is_plain = False

    def __init__(self, file: BinaryIO, name: str):
        """Reads the directories; raises UserError if they are damaged."""
        self._file, self._name = file, name
        self._data: bytearray | None = None
        with report_damage(name):
            self._directories = Directories(file)
        pages = self._directories.pages
        whole = [page for page in pages if not page.get(SUBFILE, 0) & 0b101]  # preview or mask
        self._pages = whole or pages[:1]
        self._left_out = ("previews",) if len(self._pages) < len(pages) else ()
        self.sizes = [
            page.size[::-1] if self._orientation(page) in meta.TRANSPOSED else page.size
            for page in self._pages
        ]

    def close(self) -> None:
        """Does nothing: who opened the file closes it."""

    @property
    def dtype(self) -> np.dtype:
        """The type of the pixels of the first page."""
        page = self._pages[0]
        return np.dtype(np.uint8 if page.photometric == INKS else DEEP.get(page.kind, np.uint8))

    def pixels(self, index: int) -> np.ndarray:
        """Decodes a page to upright pixels [H, W, C]: uint8, uint16, or floats in [0, 1].

        Raises:
            UserError: if it is damaged, or stored in a way that no decoder here knows.
        """
        page = self._pages[index]
        kind = page.kind
        if kind in DEEP and page.photometric != INKS:
            stored = self._decode_deep(page, *kind)
        elif kind[0] == INTEGER and (kind[1] <= 8 or kind[1] == 16):
            stored = self._decode_with_pillow(page)
        else:
            words = {INTEGER: "integers", 2: "signed integers", FLOAT: "floats"}
            raise UserError(
                f"{self._name}: has {words.get(kind[0], 'numbers')} of {kind[1] or 'mixed'} bits; "
                "save it in RGB with 8 or 16 bits or as floats"
            )
        return upright(stored, self._orientation(page))

    def _copy_with(self, page: Page) -> bytearray:
        """Returns the file with this page as its first, and upright as it is stored."""
        if self._data is None:
            self._file.seek(0)
            self._data = bytearray(self._file.read())
        self._directories.set_first(self._data, page)
        self._directories.fill(self._data, page, Base.Orientation, 1)
        if xmp := self._directories.values(page, XMP):
            start = page.entries[XMP].values
            self._data[start : start + len(xmp)] = meta.upright_xmp(xmp)
        return self._data

    def _orientation(self, page: Page) -> int:
        """Returns the orientation of stored pixels, of XMP where there is no tag for it."""
        if Base.Orientation in page.tags:
            return page.get(Base.Orientation, 1)
        return meta.orientation_of(Image.Exif(), self._directories.values(page, XMP))

    @property
    def _is_foreign_to_pillow(self) -> bool:
        return self._directories.is_big and self._directories.order == ">"

    def _decode_with_pillow(self, page: Page) -> np.ndarray:
        if self._is_foreign_to_pillow:
            raise UserError(
                f"{self._name}: is a big-endian BigTIFF file of 8 bits, which few programs read; "
                "save it as a plain TIFF file"
            )
        with report_damage(self._name):
            file = io.BytesIO(self._copy_with(page))  # given a path, Pillow might map it
            try:
                picture = Image.open(file, formats=("TIFF",))
            except Image.UnidentifiedImageError as error:
                raise self._unsupported(page.kind[1]) from error
        with picture:
            stored = to_array(self._name, picture)
        if stored.shape[:2] != page.size:
            raise UserError(f"{self._name}: cannot be read as a picture (its sizes differ)")
        return stored

    def _decode_deep(self, page: Page, sample_format: int, bits: int) -> np.ndarray:
        """Decodes channels of 16 bits or more as they are stored."""
        photometric, is_float = page.photometric, sample_format == FLOAT
        channels = page.get(Base.SamplesPerPixel, 1)
        colours = COLOURS.get(photometric, 0)
        extra = page.tags.get(Base.ExtraSamples, (ALPHA,) * (channels - colours))
        planar = page.get(Base.PlanarConfiguration, 1) == 2 and channels > 1
        is_tiled = TILE_OFFSETS in page.entries
        known = channels in (1, 3, 4) or (channels == 2 and (planar or not is_tiled))
        if not colours or channels not in (colours, colours + 1) or not known:
            raise self._unsupported(bits)
        if page.get(Base.Compression, 1) not in COMPRESSIONS:
            raise UserError(
                f"{self._name}: is compressed in a way that few programs know for {bits} bits; "
                "save it with LZW or Deflate"
            )
        with report_damage(self._name):
            data = self._copy_with(page)
            if is_float and bits == 16:  # OpenCV knows no such floats; their bits are integers'
                data = bytearray(data)
                self._directories.fill(data, page, SAMPLE_FORMAT, INTEGER)
            if planar:
                planes = (self._plane(data, page, i, channels) for i in range(channels))
                decoded = [self._decode_with_opencv(plane, page, 1) for plane in planes]
                stored = np.concatenate(decoded, axis=2)
            elif channels == 2:
                stored = self._decode_pairs(data, page)
            else:
                stored = self._decode_with_opencv(data, page, channels)
        if is_float:
            stored = stored.view(np.float16) if bits == 16 else stored.astype(np.float32)
            self._check_range(stored)
        if photometric == WHITE_IS_ZERO:
            stored[..., 0] = (1 if is_float else 65535) - stored[..., 0]
        if channels > colours and extra[0] == PREMULTIPLIED:
            stored = divide_by_alpha(stored)
        return stored if channels == colours or extra[0] else stored[..., :colours]

    def _unsupported(self, bits: int) -> UserError:
        return UserError(
            f"{self._name}: is stored in an unsupported {bits}-bit layout; convert it to RGB"
        )

    def _as_grey(self, data: bytearray, page: Page) -> bytearray:
        """Returns a copy of the file whose first page has one channel, in grey."""
        data = bytearray(data)
        self._directories.fill(data, page, Base.SamplesPerPixel, 1)
        self._directories.fill(data, page, Base.PhotometricInterpretation, BLACK_IS_ZERO)
        for tag in (Base.BitsPerSample, SAMPLE_FORMAT, Base.ExtraSamples):
            self._directories.keep_values(data, page, tag, 0, 1)
        return data

    def _plane(self, data: bytearray, page: Page, index: int, channels: int) -> bytearray:
        """Returns a copy of the file whose first page is one of several planes."""
        data = self._as_grey(data, page)
        self._directories.fill(data, page, Base.PlanarConfiguration, 1)
        for tag in (Base.StripOffsets, Base.StripByteCounts, TILE_OFFSETS, TILE_BYTE_COUNTS):
            if entry := page.entries.get(tag):
                count = entry.length // channels
                self._directories.keep_values(data, page, tag, index * count, count)
        return data

    def _decode_pairs(self, data: bytearray, page: Page) -> np.ndarray:
        """Decodes two channels, which OpenCV does not know, as grey of twice the width."""
        height, width = page.size
        data = self._as_grey(data, page)
        self._directories.fill(data, page, Base.ImageWidth, 2 * width)
        self._directories.fill(data, page, Base.Predictor, 1)
        wide = page._replace(tags={**page.tags, Base.ImageWidth: (2 * width,)})
        stored = self._decode_with_opencv(data, wide, 1).reshape(height, width, 2)
        if page.get(Base.Predictor, 1) == 2:  # differences from the pixel to the left
            stored = np.cumsum(stored, axis=1, dtype=stored.dtype)
        return stored

    def _decode_with_opencv(self, data: bytearray, page: Page, channels: int) -> np.ndarray:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise ValueError("damaged, or compressed in a way that only few programs know")
        decoded = np.atleast_3d(decoded)
        if decoded.shape != (*page.size, channels) or decoded.itemsize < 2:
            raise ValueError("its sizes differ")
        return decoded[..., [2, 1, 0, 3][:channels]] if channels > 1 else decoded

    def _check_range(self, pixels: np.ndarray) -> None:
        smallest, largest = pixels.min(), pixels.max()
        if not (smallest >= 0 and largest <= 1):  # NaN is neither
            raise UserError(
                f"{self._name}: its floats reach from {smallest:g} to {largest:g}; scale them to "
                "[0, 1]"
            )

    def metadata(self, index: int) -> Metadata:
        """Returns what the file says of a page."""
        page = self._pages[index]
        orientation = self._orientation(page)
        exif, xmp = self._read_exif(page), self._directories.values(page, XMP)
        profile = self._directories.values(page, Base.InterColorProfile)
        left_out = list(self._left_out)
        if self._is_foreign_to_pillow and page.entries.keys() & DESCRIPTIVE:
            left_out.append("EXIF data")
        if page.photometric == INKS:
            profile = b""
            left_out.append("CMYK (it is RGB now)")
        if (page.kind == (INTEGER, 16) and page.photometric == INKS) or page.kind == (FLOAT, 64):
            left_out.append(f"half of {page.kind[1]} bits a channel")
        extra = page.get(Base.SamplesPerPixel, 1) - COLOURS.get(page.photometric, 99)
        if extra > 1 or (extra == 1 and page.get(Base.ExtraSamples, ALPHA) == 0):
            left_out.append("channels beside colours and alpha")
        unknown = page.entries.keys() - DESCRIPTIVE - STRUCTURAL
        left_out += [f"tag {TiffTags.lookup(t).name.replace('unknown', str(t))}" for t in unknown]
        description = str(exif.get(Base.ImageDescription, ""))
        if description.startswith((SHAPE, IMAGEJ)):
            del exif[Base.ImageDescription]
        if description.startswith(IMAGEJ):
            left_out.append("ImageJ's description")
        resolution = meta.resolution_of(exif)
        return Metadata(
            exif=meta.upright_exif(exif, orientation),
            icc_profile=profile or None,
            resolution=meta.upright_resolution(resolution, orientation),
            xmp=meta.upright_xmp(xmp),
            iptc=self._directories.values(page, IPTC),
            left_out=tuple(sorted(left_out)),
        )

    def _read_exif(self, page: Page) -> Image.Exif:
        """Returns the descriptive tags; none if they are corrupt."""
        stored, exif = Image.Exif(), Image.Exif()
        stored.endian = self._directories.order
        stored.bigtiff = self._directories.is_big
        if self._is_foreign_to_pillow:
            return exif
        try:
            stored.load_from_fp(self._file, page.directory)
            for tag in DESCRIPTIVE & set(stored):
                value: Any = stored[tag]
                if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                    value = dict(stored.get_ifd(tag))
                    value.pop(ExifTags.IFD.Interop, None)  # an offset into the old file
                exif[tag] = value
        except DECODER_ERRORS:
            return Image.Exif()
        return exif
