import numpy as np
import pytest

from mprnet_jax.data.cutting import overlapping_pieces, random_patches
from mprnet_jax.errors import UserError


def test_pieces_overlap_by_half_and_end_at_the_border():
    image = np.arange(720 * 1280).reshape(720, 1280, 1)
    pieces = overlapping_pieces(512)({"degraded": image, "target": -image}, 0)
    corners = [divmod(piece["degraded"][0, 0, 0], 1280) for piece in pieces]
    assert corners == [(y, x) for y in (0, 208) for x in (0, 256, 512, 768)]
    for piece in pieces:
        assert piece["degraded"].shape == (512, 512, 1)
        np.testing.assert_array_equal(piece["target"], -piece["degraded"])
    small = {"degraded": image[:100, :600]}
    assert [p["degraded"].shape[:2] for p in overlapping_pieces(512)(small, 0)] == [(100, 512)] * 2


def test_random_patches_are_a_function_of_seed_and_number():
    image = np.arange(60 * 80).reshape(60, 80, 1)
    example = {"degraded": image, "target": -image}

    def corners(seed: int, index: int) -> list[int]:
        patches = random_patches(50, 32, seed)(example, index)
        assert all(p["degraded"].shape == (32, 32, 1) for p in patches)
        assert all((p["target"] == -p["degraded"]).all() for p in patches)
        return [int(p["degraded"][0, 0, 0]) for p in patches]

    assert corners(0, 0) == corners(0, 0)
    assert len({tuple(corners(seed, index)) for seed in (0, 1) for index in (0, 1)}) == 4
    assert len(set(corners(0, 0))) > 25
    with pytest.raises(UserError, match="80x60 is smaller"):
        random_patches(1, 61, 0)(example, 0)
