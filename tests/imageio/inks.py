"""Inks (CMYK) whose colours are known: a profile for them, and what sRGB they have."""

import struct

import numpy as np
from skimage.color import lab2xyz

WHITE = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)  # D50, in 16.16 fixed point
# XYZ for D50 -> linear sRGB, with Bradford's adaptation (Lindbloom, "RGB/XYZ Matrices").
XYZ_TO_RGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)


def to_lab(inks: np.ndarray) -> np.ndarray:
    """Returns L*a*b* [..., 3] of inks [..., 4] in [0, 1]: affine, from white to black."""
    c, m, y, k = np.moveaxis(inks, -1, 0)
    lightness = 100 - 15 * c - 20 * m - 5 * y - 60 * k
    return np.stack([lightness, -14 * c + 22 * m - 8 * y, -16 * c - 8 * m + 24 * y], axis=-1)


def to_srgb(inks: np.ndarray) -> np.ndarray:
    """Returns sRGB [..., 3], floats of 0 to 255, of inks [..., 4], uint8."""
    linear = lab2xyz(to_lab(inks / 255), illuminant="D50") @ np.transpose(XYZ_TO_RGB)
    return 255 * np.where(
        linear > 0.0031308, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055, 12.92 * linear
    )


def make_profile() -> bytes:
    """Makes an ICC profile (version 2) of `to_lab`, with a table of 2^4 points."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    lightness, a, b = to_lab(corners).T
    points = np.stack([lightness / 100 * 65280, (a + 128) * 256, (b + 128) * 256], axis=1)
    line = np.array([0, 65535], ">u2").tobytes()
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    table += 4 * line + points.round().astype(">u2").tobytes() + 3 * line
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + WHITE,
        b"A2B0": table,
    }
    directory, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        directory += name + struct.pack(">2I", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4x", 128 + len(directory + body)) + b"\2\x40\0\0prtrCMYKLab "
    header = (header.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + WHITE
    return header.ljust(128, b"\0") + directory + body
