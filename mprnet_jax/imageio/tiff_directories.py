"""The directories of TIFF files: where tags stand, what they say, and edits of copies of them.

Reference: TIFF 6.0, and BigTIFF.
"""

import os
import struct
from typing import BinaryIO, NamedTuple

from PIL import ExifTags
from PIL.ExifTags import Base

from mprnet_jax.imageio.damage import SIZES, claims_too_much
from mprnet_jax.imageio.metadata import MAX_PROFILE

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # codes of `struct` by type of values
MAX_VALUES = 16  # of a tag that is read here
MAX_ENTRIES = 1_000_000  # of all directories; damaged ones overlap

BLACK_IS_ZERO, RGB, INKS = 1, 2, 5  # photometric interpretations
WHITE_IS_ZERO = 0
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, INKS: 4}
INTEGER, FLOAT = 1, 3  # sample formats
PREMULTIPLIED, ALPHA = 1, 2  # kinds of extra channels
SAMPLE_FORMAT, XMP, IPTC, SUBFILE = 339, 700, 33723, 254
TILE_OFFSETS, TILE_BYTE_COUNTS = 324, 325

# The tags that describe the photo and are kept, in EXIF's directory.
DESCRIPTIVE = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist),
    *(Base.Copyright, Base.HostComputer, Base.DocumentName, Base.PageName),
    *(Base.XResolution, Base.YResolution, Base.ResolutionUnit),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),  # where on earth (GeoTIFF, GDAL)
    ExifTags.IFD.Exif,
    ExifTags.IFD.GPSInfo,
}
# Those that describe how pixels are stored, or do not hold of restored ones.
STRUCTURAL = {
    *range(254, 270),  # sizes, compression, shades
    *(273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 297),
    *(301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 333, 334, 336),
    *(337, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532, 34675, XMP, IPTC),
}
# How descriptions begin that tell the same in words: by tifffile and by ImageJ.
SHAPE, IMAGEJ = '{"shape": ', "ImageJ="


class Entry(NamedTuple):
    """Where a tag stands in a file, and where its values do."""

    position: int
    kind: int
    length: int
    values: int


class Page(NamedTuple):
    """One picture of a file."""

    directory: int  # its position
    entries: dict[int, Entry]
    tags: dict[int, tuple[int, ...]]  # the first integers of tags that have some

    def get(self, tag: int, default: int) -> int:
        """Returns the first integer of a tag."""
        return self.tags.get(tag, (default,))[0]

    @property
    def photometric(self) -> int:
        """The photometric interpretation."""
        return self.get(Base.PhotometricInterpretation, BLACK_IS_ZERO)

    @property
    def kind(self) -> tuple[int, int]:
        """The sample format and the bits a channel; 0 where channels differ."""
        kinds = (self.tags.get(SAMPLE_FORMAT, (INTEGER,)), self.tags.get(Base.BitsPerSample, (1,)))
        sample_format, bits = (v[0] if len(set(v)) == 1 else 0 for v in kinds)
        return sample_format, bits

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self.get(Base.ImageLength, 0), self.get(Base.ImageWidth, 0)


class Directories:
    """The directories of an opened file.

    Attributes:
        order: "<" or ">", the order of bytes.
        is_big: whether it is a BigTIFF file.
        pages: in order.
    """

    def __init__(self, file: BinaryIO):
        """Reads them; raises struct.error, ValueError or OSError if they are damaged."""
        self._file = file
        head = file.read(4)
        self.order = "<" if head[:2] == b"II" else ">"
        self.is_big = 43 in head[2:4]
        # Codes of `struct`: of offsets, of the number of entries, of an entry without its values.
        codes = ("Q", "Q", "HHQ") if self.is_big else ("I", "H", "HHI")
        self._offset, self._count, self._entry = (self.order + code for code in codes)
        self._room = 8 if self.is_big else 4  # bytes of an entry for its values or their offset
        self.pages = self._read_pages()
        if not self.pages or any(0 in page.size for page in self.pages):
            raise ValueError("no picture")

    def _unpack(self, code: str, position: int) -> tuple:
        self._file.seek(position)
        return struct.unpack(code, self._file.read(struct.calcsize(code)))

    def _read_pages(self) -> list[Page]:
        pages: dict[int, Page] = {}
        size, total = self._file.seek(0, os.SEEK_END), 0
        (position,) = self._unpack(self._offset, self._room)
        while position and position not in pages:
            (count,) = self._unpack(self._count, position)
            start, before = position + struct.calcsize(self._count), struct.calcsize(self._entry)
            step = before + self._room
            total += count
            if start + count * step > size or total > MAX_ENTRIES:
                raise ValueError("damaged directory")
            self._file.seek(start)
            block = self._file.read(count * step)
            entries = {}
            for i in range(count):
                tag, kind, length = struct.unpack_from(self._entry, block, i * step)
                values = start + i * step + before
                if length * SIZES.get(kind, 1) > self._room:
                    (values,) = self._unpack(self._offset, values)
                entries[tag] = Entry(start + i * step, kind, length, values)
            if claims_too_much(self._file, self.order, self.is_big, position):
                raise ValueError("damaged directory")
            pages[position] = Page(position, entries, self._integers(entries))
            (position,) = self._unpack(self._offset, start + count * step)
        return list(pages.values())

    def _integers(self, entries: dict[int, Entry]) -> dict[int, tuple[int, ...]]:
        return {
            tag: self._unpack(
                f"{self.order}{min(entry.length, MAX_VALUES)}{INTEGERS[entry.kind]}", entry.values
            )
            for tag, entry in entries.items()
            if entry.kind in INTEGERS and entry.length and tag in STRUCTURAL
        }

    def values(self, page: Page, tag: int) -> bytes:
        """Returns the bytes of a tag's values; b"" if it is missing or too large."""
        entry = page.entries.get(tag)
        size = entry.length * SIZES.get(entry.kind, 1) if entry else 0
        if not entry or size > MAX_PROFILE:
            return b""
        self._file.seek(entry.values)
        return self._file.read(size)

    def set_first(self, data: bytearray, page: Page) -> None:
        """Makes a page the first of a copy of the file."""
        struct.pack_into(self._offset, data, self._room, page.directory)

    def fill(self, data: bytearray, page: Page, tag: int, value: int) -> None:
        """Replaces all values of a tag in a copy of the file, if the page has it."""
        entry = page.entries.get(tag)
        if entry and entry.kind in INTEGERS and entry.length <= MAX_VALUES:
            code = f"{self.order}{entry.length}{INTEGERS[entry.kind]}"
            struct.pack_into(code, data, entry.values, *[value] * entry.length)

    def keep_values(self, data: bytearray, page: Page, tag: int, first: int, count: int) -> None:
        """Keeps `count` values of a tag in a copy of the file, if the page has it."""
        entry = page.entries.get(tag)
        if entry is None:
            return
        start, size = entry.values + first * SIZES[entry.kind], count * SIZES[entry.kind]
        position = entry.position + struct.calcsize(self._entry)
        if size <= self._room:
            values = data[start : start + size].ljust(self._room, b"\0")
            data[position : position + self._room] = values
        else:
            struct.pack_into(self._offset, data, position, start)
        struct.pack_into(self._offset, data, entry.position + 4, count)
