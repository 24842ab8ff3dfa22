import numpy as np
import pytest

from mprnet_jax.data.augment import RandomPatch, adjust_saturation, center_crop, crop, pad_to


def grid(height, width):
    """An image whose pixels are their own coordinates."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)


def test_padding_reflects_right_and_bottom():
    image = grid(3, 5)
    padded = pad_to(image, 8)
    assert padded.shape == (8, 8, 3)
    np.testing.assert_array_equal(padded[:3, :5], image)
    np.testing.assert_array_equal(padded[:, 0, 0], [0, 1, 2, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(padded[0, :, 1], [0, 1, 2, 3, 4, 3, 2, 1])
    assert pad_to(image, 2) is image


def test_all_images_are_cropped_at_the_same_position():
    image = grid(20, 30)
    patch = crop({"degraded": image, "target": 255 - image}, 8, (0.999, 0.0))
    np.testing.assert_array_equal(patch["degraded"][0, 0], [12, 0, 0])
    np.testing.assert_array_equal(255 - patch["target"], patch["degraded"])


def test_center_crop_is_central():
    np.testing.assert_array_equal(center_crop({"a": grid(20, 30)}, 10)["a"][0, 0], [5, 10, 0])


@pytest.fixture
def patches():
    image = grid(40, 50)
    draw = RandomPatch(8)
    example = {"degraded": image, "target": image.copy()}
    return [draw(example, np.random.default_rng(seed)) for seed in range(400)]


def test_random_patches_stay_paired(patches):
    for patch in patches:
        np.testing.assert_array_equal(patch["degraded"], patch["target"])


def test_random_patches_reach_all_positions_and_symmetries(patches):
    tops = {patch["target"][..., 0].min() for patch in patches}
    lefts = {patch["target"][..., 1].min() for patch in patches}
    # 400 draws miss one of 33 or 43 positions with a chance under 0.4 %; the seeds are fixed.
    assert tops == set(range(33))
    assert lefts == set(range(43))
    first_steps = {
        tuple(p["target"][0, 1].astype(int) - p["target"][0, 0])
        + tuple(p["target"][1, 0].astype(int) - p["target"][0, 0])
        for p in patches
    }
    assert len(first_steps) == 8


def test_degradation_is_drawn_anew_and_comes_last():
    def rain_at_the_top(image, rng):
        degraded = image.copy()
        degraded[0, :, 2] = rng.integers(1, 255)
        return degraded

    draw = RandomPatch(8, rain_at_the_top)
    seen = set()
    for seed in range(20):
        patch = draw({"target": grid(40, 40)}, np.random.default_rng(seed))
        assert (patch["degraded"][0, :, 2] > 0).all()
        np.testing.assert_array_equal(patch["degraded"][1:], patch["target"][1:])
        seen.add(patch["degraded"][0, 0, 2])
    assert len(seen) > 10


def test_saturation_keeps_grey_and_moves_colours():
    photo = np.random.default_rng(0).integers(60, 180, (8, 8, 3), np.uint8)
    grey = np.repeat(photo[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(adjust_saturation(grey, 1.2), grey)
    np.testing.assert_array_equal(adjust_saturation(photo, 1), photo)
    spread = [
        np.ptp(adjust_saturation(photo, factor).astype(int), axis=-1) for factor in (0.8, 1, 1.2)
    ]
    # 2: two values are rounded before and after.
    np.testing.assert_allclose(spread[0], 0.8 * spread[1], atol=2)
    np.testing.assert_allclose(spread[2], 1.2 * spread[1], atol=2)
    luma = adjust_saturation(photo, 1.2) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luma, photo @ [0.299, 0.587, 0.114], atol=0.5)  # rounding
    np.testing.assert_array_equal(
        adjust_saturation(np.uint8([[[255, 0, 0]]]), 1.2), [[[255, 0, 0]]]
    )


def test_a_third_of_the_pairs_is_saturated_both_images_alike():
    image = np.random.default_rng(0).integers(60, 180, (8, 8, 3), np.uint8)
    example = {"degraded": image, "target": image}
    changed = 0
    for seed in range(300):
        patch = RandomPatch(8, saturation=True)(example, np.random.default_rng(seed))
        plain = RandomPatch(8)(example, np.random.default_rng(seed))
        np.testing.assert_array_equal(patch["degraded"], patch["target"])
        changed += not np.array_equal(patch["target"], plain["target"])
    assert 70 < changed < 130  # 100 on average, 8 the standard deviation


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_saturation_of_other_types_is_that_of_8_bits(dtype):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    white = 65535 if dtype == np.uint16 else 1
    other = adjust_saturation((image / 255 * white).astype(dtype), 1.2)
    assert other.dtype == dtype
    # 8 bits are rounded.
    expected = adjust_saturation(image, 1.2)
    np.testing.assert_allclose(other / white * 255, expected, atol=0.51)
