"""What JPEG files say of a photo in segments that Pillow does not write."""

import struct
from typing import Any

from mprnet_jax.imageio.png import iptc_of_resources, resources_of_iptc

IPTC = 0x0404  # number of the resource of Photoshop with IPTC records
# Resources of Photoshop that JPEG and EXIF repeat, or that do not hold of restored photos:
# resolution, previews, their digests.
OUTDATED = {IPTC, 0x03ED, 0x0409, 0x040C, 0x0425}
MAX_SEGMENT = 65_533  # bytes
# What is read otherwise: by segment, how it begins.
KNOWN = {
    "APP0": (b"JFIF", b"JFXX"),
    "APP1": (b"Exif", b"http://ns.adobe.com/xap/1.0/\0"),
    "APP2": (b"ICC_PROFILE", b"MPF"),
    "APP13": (b"Photoshop 3.0",),
    "APP14": (b"Adobe",),
}
PHOTOSHOP = b"Photoshop 3.0\0"


def describe(picture: Any) -> tuple[bytes, tuple[tuple[str, str], ...], list[str]]:
    """Returns IPTC records, comments, and what is left out, of Pillow's opened JPEG file."""
    iptc, left_out = b"", set()
    text: tuple[tuple[str, str], ...] = ()
    if comment := picture.info.get("comment"):
        data = comment if isinstance(comment, bytes) else str(comment).encode()
        text = (("Comment", data.decode("utf-8", "replace")),)
    for segment, data in picture.applist:
        if segment == "APP13" and data.startswith(PHOTOSHOP):
            iptc = iptc or iptc_of_resources(data.removeprefix(PHOTOSHOP))
        elif segment != "COM" and not data.startswith(KNOWN.get(segment, ())):
            begin = data[:28].split(b"\0")[0].decode("latin-1")
            left_out.add(f"{segment} {begin if begin.isprintable() else ''}".strip())
    if set(picture.info.get("photoshop") or ()) - OUTDATED:
        left_out.add("Photoshop's resources")
    return iptc, text, sorted(left_out)


def insert_iptc(file: bytes, iptc: bytes) -> bytes:
    """Inserts IPTC records, in a segment behind those of JFIF and EXIF."""
    data = PHOTOSHOP + resources_of_iptc(iptc)
    position = 2
    while file[position : position + 2] in (b"\xff\xe0", b"\xff\xe1"):
        position += 2 + int.from_bytes(file[position + 2 : position + 4], "big")
    segment = b"\xff\xed" + struct.pack(">H", len(data) + 2) + data
    return file[:position] + segment + file[position:]
