"""Sizes of images, (height, width) in pixels."""

from typing import Any

from mprnet_jax.config import SIZE_MULTIPLE

Size = tuple[int, int]


def round_up(number: Any, multiple: int) -> Any:
    """Returns an integer, or each of an array of them, rounded up to a multiple.

    >>> round_up(321, 8)
    328
    """
    return -(-number // multiple) * multiple


def padded_size(height: int, width: int) -> Size:
    """Returns the padded size: both sides rounded up to multiples of 8.

    >>> padded_size(480, 321)
    (480, 328)
    """
    return round_up(height, SIZE_MULTIPLE), round_up(width, SIZE_MULTIPLE)
