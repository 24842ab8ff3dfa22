"""Lays captioned pictures side by side on a sheet."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mprnet_jax.atomic import writing
from mprnet_jax.imageio.pixels import to_uint8

GAP = 8  # pixels between pictures
LINE = 22  # pixels of height for a line of text


def make_sheet(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Lays out captioned pictures in rows.

    Args:
        rows: of (caption, picture) with pictures [H, W, 3], uint8 or floats in [0, 1].

    Returns:
        The sheet, uint8 [H, W, 3], white outside the pictures.
    """
    font = ImageFont.load_default(size=LINE * 0.7)

    def width(caption: str, picture: np.ndarray) -> int:
        return max(picture.shape[1], math.ceil(font.getlength(caption))) + GAP

    heights = [max(picture.shape[0] for _, picture in row) + LINE + GAP for row in rows]
    widths = [sum(width(*cell) for cell in row) for row in rows]
    sheet = Image.new("RGB", (max(widths) + GAP, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    y = GAP
    for row, row_height in zip(rows, heights):
        x = GAP
        for caption, picture in row:
            draw.text((x, y), caption, fill="black", font=font)
            sheet.paste(Image.fromarray(to_uint8(picture)), (x, y + LINE))
            x += width(caption, picture)
        y += row_height
    return np.asarray(sheet)


def shrink(image: np.ndarray, longest_side: int) -> np.ndarray:
    """Shrinks a uint8 image by the smallest integer that leaves no side above `longest_side`."""
    factor = -(-max(image.shape[:2]) // longest_side)
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes a uint8 image, whole or not at all; raises UserError where it cannot be written."""
    with writing(path) as temporary:
        Image.fromarray(image).save(temporary)
