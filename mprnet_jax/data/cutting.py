"""Cuts examples into the pieces that prepared sets store."""

from collections.abc import Callable, Sequence

import numpy as np

from mprnet_jax.data.pairs import Example
from mprnet_jax.errors import UserError

# Maps an example and its index in the set to the pieces of it that are stored.
Cut = Callable[[Example, int], Sequence[Example]]


def overlapping_pieces(size: int) -> Cut:
    """Returns a `Cut` into squares that overlap by at least half and end at the border.

    Every square of half the size lies in one of the pieces. Sides shorter than `size` are kept.
    """

    def starts(length: int) -> list[int]:
        last = max(length - size, 0)
        count = -(-last // (size // 2)) + 1
        return [round(start) for start in np.linspace(0, last, count)]

    def cut(example: Example, _: int) -> list[Example]:
        height, width = example["degraded"].shape[:2]
        return [
            {role: image[y : y + size, x : x + size] for role, image in example.items()}
            for y in starts(height)
            for x in starts(width)
        ]

    return cut


def random_patches(count: int, size: int, seed: int) -> Cut:
    """Returns a `Cut` into `count` random squares, a function of the seed and the index."""

    def cut(example: Example, index: int) -> list[Example]:
        random = np.random.default_rng((seed, index))
        height, width = example["degraded"].shape[:2]
        if min(height, width) < size:
            raise UserError(f"picture {index + 1} of {width}x{height} is smaller than its patches")
        ys = random.integers(0, height - size, count, endpoint=True)
        xs = random.integers(0, width - size, count, endpoint=True)
        return [
            {role: image[y : y + size, x : x + size] for role, image in example.items()}
            for y, x in zip(ys, xs)
        ]

    return cut
