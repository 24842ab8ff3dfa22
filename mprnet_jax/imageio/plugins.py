"""HEIC, which Pillow reads with a plugin, and what headers tell of AVIF and HEIC.

JPEG XL is not read: the plugin for it (pillow-jxl-plugin 1.3) decodes all pixels before it tells
their number, tries other decoders too, and takes the first frame of an animation for the picture.
"""

import struct
from collections.abc import Mapping
from typing import Any

from mprnet_jax.errors import UserError

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
NCLX = b"colrnclx"  # the box that tells how numbers are meant
SRGB = ((1, 2), (2, 13))  # its primaries and transfer functions, and "not told"
JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def formats_for(head: bytes, name: str) -> tuple[str, ...]:
    """Registers the plugin that a file needs; returns the names of the formats it adds.

    Raises:
        UserError: if the plugin is not installed, or there is none to rely on.
    """
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head[:64]:
        register_heic(name)
        return ("HEIF",)
    if head.startswith(JPEG_XL):
        raise UserError(f"{name}: is a JPEG XL picture, which is not read; save it as PNG or TIFF")
    return ()


def register_heic(name: str) -> None:
    """Lets Pillow read and write HEIC; raises UserError if pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError as error:
        raise UserError(
            f"{name}: HEIC pictures need pillow-heif: pip install 'mprnet-jax[heic]'"
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False)


def left_out_of(file_format: str, head: bytes, info: Mapping[Any, Any]) -> list[str]:
    """Returns what Pillow does not take of the pixels of an AVIF or HEIC file."""
    bits = info.get("bit_depth", 8) if file_format == "HEIF" else 8
    start = head.find(b"av1C")
    if file_format == "AVIF" and 0 < start < len(head) - 6 and head[start + 6] & 0x40:
        bits = 12 if head[start + 6] & 0x20 else 10
    return [f"{bits} bits a channel (8 are read)"] if bits > 8 else []


def colours_of(file_format: str, head: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Returns how the numbers of an AVIF or HEIC file are meant, as PNG's chunk for it, cICP.

    Nothing where they are sRGB or not told.
    """
    start = head.find(NCLX) + len(NCLX)
    if file_format not in ("AVIF", "HEIF") or start < len(NCLX) or start + 4 > len(head):
        return ()
    primaries, transfer = struct.unpack_from(">HH", head, start)
    if (primaries in SRGB[0] and transfer in SRGB[1]) or max(primaries, transfer) > 255:
        return ()
    return ((b"cICP", bytes([primaries, transfer, 0, 1])),)


def insert_colours(file: bytes, cicp: bytes) -> bytes:
    """Writes PNG's cICP into an AVIF or HEIC file that Pillow has written."""
    start = file.find(NCLX) + len(NCLX)
    if start < len(NCLX):
        return file
    return file[:start] + struct.pack(">HH", cicp[0], cicp[1]) + file[start + 4 :]
