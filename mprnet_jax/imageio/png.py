"""PNG files: their chunks, what these say of a photo, and how they are written.

Reference: PNG specification, third edition.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import numpy as np

from mprnet_jax.imageio.metadata import MAX_PROFILE, Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEFLATE_LEVEL = 4  # of Deflate: half the time of the default for a few per cent more bytes
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of channels
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by number of the colour type

PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL")  # all that a decoder needs
COLOURS = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"mDCV", b"cLLI")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
# What no longer holds of restored pixels.
OUTDATED = (b"sBIT", b"hIST", b"tIME", b"fcTL", b"fdAT")
XMP = "XML:com.adobe.xmp"
RAW_PROFILE = "Raw profile type "  # of ImageMagick: EXIF, IPTC or XMP in hexadecimal digits
INCH = 0.0254  # metres


class Chunk(NamedTuple):
    """Where the data of a chunk are."""

    name: bytes
    position: int
    length: int


class Header(NamedTuple):
    """The header of a PNG file."""

    width: int
    height: int
    bits: int  # per channel
    channels: int
    has_palette: bool


def list_chunks(file: BinaryIO) -> list[Chunk]:
    """Lists the chunks of a file, as far as it is whole."""
    chunks = []
    position = len(SIGNATURE)
    file.seek(position)
    while len(header := file.read(8)) == 8:
        chunk = Chunk(header[4:], position + 8, int.from_bytes(header[:4], "big"))
        chunks.append(chunk)
        position = chunk.position + chunk.length + 4
        file.seek(chunk.length + 4, os.SEEK_CUR)
    return chunks


def read_chunk(file: BinaryIO, chunk: Chunk) -> bytes:
    """Returns the data of a chunk."""
    file.seek(chunk.position)
    return file.read(chunk.length)


def read_header(file: BinaryIO) -> Header:
    """Reads the header; raises struct.error if it is cut off, ValueError if it is none."""
    file.seek(len(SIGNATURE))
    _, name, width, height, bits, colour_type = struct.unpack(">I4sIIBB", file.read(18))
    if name != b"IHDR" or colour_type not in CHANNELS or not width or not height:
        raise ValueError("damaged header")
    return Header(width, height, bits, CHANNELS[colour_type], colour_type == 3)


def without_metadata(file: BinaryIO, chunks: list[Chunk]) -> BinaryIO:
    """Returns the file without the chunks that decoders of pixels need not read.

    Large or damaged metadata cannot keep a photo from being read then.
    """
    if all(chunk.name in PIXELS for chunk in chunks):
        file.seek(0)
        return file
    parts, size = [SIGNATURE], file.seek(0, os.SEEK_END)
    for chunk in chunks:
        if chunk.name in PIXELS:
            file.seek(chunk.position - 8)
            # Of a file that is cut off, its chunk may claim much more than there is.
            parts.append(file.read(min(chunk.length + 12, size)))
    return io.BytesIO(b"".join(parts))


def read_metadata(file: BinaryIO, chunks: list[Chunk]) -> Metadata:
    """Reads what chunks say of a photo; its EXIF data and XMP packet as they are stored."""
    exif, xmp, iptc, profile, resolution = b"", b"", b"", None, None
    text: list[tuple[str, str]] = []
    colours: dict[bytes, bytes] = {}
    left_out = []
    room = MAX_PROFILE  # for all texts together
    for chunk in chunks:
        name = chunk.name
        if name in PIXELS or name in OUTDATED:
            continue
        data = read_chunk(file, chunk) if chunk.length <= MAX_PROFILE else b""
        if name == b"eXIf":
            exif = b"Exif\0\0" + data
        elif name in COLOURS:
            colours[name] = data
        elif name == b"iCCP" and (
            profile := _decompress(data.partition(b"\0")[2][1:], MAX_PROFILE)
        ):
            pass
        elif name == b"pHYs" and len(data) == 9 and data[8] == 1:  # a metre
            x, y = struct.unpack(">II", data[:8])
            resolution = (x * INCH, y * INCH)
        elif name in TEXT and (entry := _parse_text(name, data, room)):
            keyword, value = entry
            room -= len(value)
            kind = keyword.removeprefix(RAW_PROFILE) if keyword.startswith(RAW_PROFILE) else ""
            if keyword == XMP:
                xmp = value.encode()
            elif kind in ("exif", "APP1", "iptc", "xmp") and (raw := _parse_raw_profile(value)):
                if kind == "iptc":
                    iptc = iptc_of_resources(raw)
                elif kind == "xmp":
                    xmp = xmp or raw
                elif raw.startswith(b"Exif\0\0"):
                    exif = exif or raw
            else:
                text.append(entry)
        else:
            left_out.append(f"chunk {name.decode('latin-1')}" if name.isalpha() else "a chunk")
    return Metadata(
        exif, profile, resolution, xmp, iptc, tuple(text), tuple(colours.items()), tuple(left_out)
    )


def _decompress(data: bytes, limit: int) -> bytes | None:
    """Decompresses up to `limit` bytes; None if they are more, or damaged."""
    decompressor = zlib.decompressobj()
    try:
        result = decompressor.decompress(data, limit)
    except zlib.error:
        return None
    return result if decompressor.eof else None


def _parse_text(name: bytes, data: bytes, limit: int) -> tuple[str, str] | None:
    """Returns keyword and text of a chunk; None if it is damaged or larger than the limit."""
    keyword, found, rest = data.partition(b"\0")
    if not found or limit <= 0:
        return None
    if name == b"tEXt":
        return keyword.decode("latin-1"), rest.decode("latin-1")
    if name == b"zTXt":
        value = _decompress(rest[1:], limit)
        return (keyword.decode("latin-1"), value.decode("latin-1")) if value is not None else None
    compressed = rest[:1] == b"\1"
    value = rest[2:].split(b"\0", 2)[-1]  # behind language and translated keyword
    value = _decompress(value, limit) if compressed else value
    if value is None:
        return None
    return keyword.decode("latin-1"), value.decode("utf-8", "replace")


def _parse_raw_profile(text: str) -> bytes:
    """Decodes a kind of profile, its length, and hexadecimal digits, on lines of their own."""
    try:
        return bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return b""


def iptc_of_resources(data: bytes) -> bytes:
    """Returns the IPTC records in a block of Photoshop's resources, b"" if there are none."""
    position = 0
    while data[position : position + 4] == b"8BIM" and len(data) >= position + 12:
        number = int.from_bytes(data[position + 4 : position + 6], "big")
        position += 7 + data[position + 6]  # behind a name
        position += position % 2
        length = int.from_bytes(data[position : position + 4], "big")
        if number == 0x0404:
            return data[position + 4 : position + 4 + length]
        position += 4 + length + length % 2
    return b""


def resources_of_iptc(iptc: bytes) -> bytes:
    """Returns a block of Photoshop's resources with IPTC records in it."""
    return b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)


def chunks_of(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Returns name and data of the chunks for what is known of a photo."""
    chunks = []
    if metadata.icc_profile:
        profile = b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)
        chunks.append((b"iCCP", profile))
    chunks += metadata.colours
    if metadata.resolution:
        metres = (round(min(value / INCH, 2**31 - 1)) for value in metadata.resolution)
        chunks.append((b"pHYs", struct.pack(">IIB", *metres, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    if metadata.xmp:
        chunks.append((b"iTXt", XMP.encode() + bytes(5) + metadata.xmp))
    text = list(metadata.text)
    if metadata.iptc:
        raw = resources_of_iptc(metadata.iptc)
        text.append((f"{RAW_PROFILE}iptc", f"\niptc\n{len(raw):8d}\n{raw.hex()}\n"))
    for keyword, value in text:
        key = keyword.encode("latin-1", "replace")[:79] or b"Comment"
        try:
            chunks.append((b"tEXt", key + b"\0" + value.encode("latin-1")))
        except UnicodeEncodeError:
            chunks.append((b"iTXt", key + bytes(5) + value.encode()))
    return chunks


def join_chunks(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns chunks as they stand in a file."""
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def insert_chunks(file: bytes, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Inserts chunks behind the header of a file."""
    end = len(SIGNATURE) + 12 + 13
    return file[:end] + join_chunks(chunks) + file[end:]


def encode_16_bits(pixels: np.ndarray) -> bytes:
    """Encodes uint16 [H, W, C] as a PNG file."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    data = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    rows = np.ones((height, 1 + data.shape[1]), np.uint8)  # filter 1: minus the pixel to the left
    rows[:, 1:] = data
    rows[:, 1 + 2 * channels :] -= data[:, : -2 * channels]
    compressed = zlib.compress(rows.data, DEFLATE_LEVEL)
    chunks = ((b"IHDR", header), (b"IDAT", compressed), (b"IEND", b""))
    return SIGNATURE + join_chunks(chunks)
