import json
import math
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import metrics

GOLDEN = Path(__file__).parent / "golden"
golden = json.loads((GOLDEN / "golden.json").read_text())
pairs = runpy.run_path(str(GOLDEN / "pairs.py"))["pairs"]()


@pytest.fixture(scope="module")
def noisy() -> tuple[np.ndarray, np.ndarray]:
    """A photo and the same with noise, floats, odd sides, more rows than a strip."""
    target = data.astronaut()[100:175, 140:203] / 255
    return target + np.random.default_rng(0).normal(0, 0.1, target.shape), target


def direct_ssim(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    """SSIM with an 11-wide Gaussian on every axis and replicated borders, window after window."""
    offsets = np.stack(np.meshgrid(*[np.arange(-5, 6)] * a.ndim, indexing="ij"))
    window = np.exp(-(offsets**2).sum(0) / (2 * 1.5**2))
    window /= window.sum()
    a, b = (np.pad(x.astype(np.float64), 5, mode="edge") for x in (a, b))
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for corner in np.ndindex(*(n - 10 for n in a.shape)):
        box = tuple(slice(i, i + 11) for i in corner)
        mean_a, mean_b = (window * a[box]).sum(), (window * b[box]).sum()
        variance_a = (window * (a[box] - mean_a) ** 2).sum()
        variance_b = (window * (b[box] - mean_b) ** 2).sum()
        covariance = (window * (a[box] - mean_a) * (b[box] - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        values.append(luminance * (2 * covariance + c2) / (variance_a + variance_b + c2))
    return np.mean(values)


def test_luma_of_colours_is_octaves():
    colours = np.array(golden["luma"])
    ours = metrics.luma(np.uint8(colours[None, :, :3]))[0]
    np.testing.assert_array_equal(ours, colours[:, 3])


@pytest.mark.parametrize("scores", golden["pairs"], ids=lambda scores: scores["name"])
def test_scores_are_octaves(scores):
    degraded, target = pairs[scores["name"]]
    y = metrics.luma(degraded), metrics.luma(target)
    # The bounds for decibels and for SSIM below which two implementations count as one.
    assert y[1].mean() == pytest.approx(scores["luma_mean"], abs=1e-9)
    assert metrics.psnr(*y) == pytest.approx(scores["luma_psnr"], abs=1e-4)
    assert metrics.ssim(*y) == pytest.approx(scores["luma_ssim"], abs=1e-5)
    assert metrics.psnr(degraded, target) == pytest.approx(scores["rgb_psnr"], abs=1e-4)
    assert metrics.volume_ssim(degraded, target) == pytest.approx(scores["volume_ssim"], abs=1e-5)


def test_luma_rounds_ties_up():
    # Every colour that lies exactly between two values of Y.
    levels = np.arange(256)
    thousandths = (
        65481 * levels[:, None, None] + 128553 * levels[:, None] + 24966 * levels
    ) % 255_000
    r, g, b = np.nonzero(thousandths == 127_500)
    assert len(r) > 10
    exact = (65481 * r + 128553 * g + 24966 * b) / 255_000 + 16
    ours = metrics.luma(np.stack([r, g, b], axis=-1)[None].astype(np.uint8))[0]
    np.testing.assert_array_equal(ours, exact + 0.5)


@pytest.mark.parametrize("shape", [(13, 12, 3), (40, 9, 3)])
def test_volume_ssim_is_the_formula(shape):
    random = np.random.default_rng(1)
    target = random.random(shape)
    prediction = target + random.normal(0, 0.2, shape)
    # Both float64; the sums are ordered differently.
    expected = direct_ssim(prediction, target, 1)
    assert metrics.volume_ssim(prediction, target) == pytest.approx(expected, abs=1e-9)
    counts = [np.uint8(np.clip(x, 0, 1) * 255) for x in (prediction, target)]
    assert metrics.volume_ssim(*counts) == pytest.approx(direct_ssim(*counts, 255), abs=1e-9)


def test_ssim_is_the_mean_of_scikit_images_valid_map(noisy):
    a, b = (image[..., 1] for image in noisy)
    _, similarity = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
    )
    expected = similarity[5:-5, 5:-5].mean()
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-9)  # float64 throughout


def test_psnr_follows_the_dtype(noisy):
    counts = np.uint8([[0, 10], [20, 30]])
    assert metrics.psnr(counts, counts + np.uint8(5)) == pytest.approx(20 * math.log10(255 / 5))
    floats = counts / 255
    assert metrics.psnr(floats, floats + 5 / 255) == pytest.approx(20 * math.log10(255 / 5))
    assert metrics.psnr(counts, counts) == math.inf
    # float32 images are scored in float64: 1e-4 dB would show sums in float32.
    single = [x.astype(np.float32) for x in noisy]
    expected = -10 * np.log10(np.mean((single[0].astype(np.float64) - single[1]) ** 2))
    assert metrics.psnr(*single) == pytest.approx(expected, abs=1e-9)


def test_alignment_recovers_a_homography_and_scores_it():
    # Smooth, so that resampling twice costs little.
    photo = cv2.GaussianBlur(data.astronaut() / 255, (0, 0), 1.5)
    target = photo[60:360, 60:420]
    known = np.array([[1.01, 0.004, -2.5], [-0.006, 0.995, 3.2], [1e-5, -8e-6, 1]])
    place = np.array([[1, 0, 60], [0, 1, 60], [0, 0, 1]])
    moved = cv2.warpPerspective(
        np.float32(photo),
        place @ np.linalg.inv(known),  # from a pixel of `moved` to one of the photo
        target.shape[1::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    ).astype(np.float64)
    found = metrics.find_homography(moved, target)
    corners = np.array([[[0, 0], [359, 0], [0, 299], [359, 299]]], dtype=np.float64)
    distance = np.abs(
        cv2.perspectiveTransform(corners, found.astype(np.float64))
        - cv2.perspectiveTransform(corners, known)
    )
    assert distance.max() < 0.1  # pixels, at the corners, where it is largest
    psnr, ssim = metrics.aligned_psnr_ssim(0.7 * moved, target)  # brightness is matched, too
    assert metrics.psnr(moved, target) < 30
    assert psnr > 40
    assert ssim > 0.99


def test_alignment_leaves_out_what_the_prediction_does_not_show():
    _, mask = metrics.warp(np.ones((20, 30, 3)), np.array([[1, 0, 4.0], [0, 1, 0], [0, 0, 1]]))
    assert mask[:, :26].all()
    assert not mask[:, 26:].any()


def test_aligned_scores_of_equal_images_are_perfect(noisy):
    psnr, ssim = metrics.aligned_psnr_ssim(noisy[1], noisy[1])
    assert psnr > 60  # the found homography is the identity up to float32
    assert ssim == pytest.approx(1, abs=1e-4)


def test_aligned_scores_of_integers_are_those_of_floats(noisy):
    integers = [np.rint(image.clip(0, 1) * 255).astype(np.uint8) for image in noisy]
    scores = metrics.aligned_psnr_ssim(*integers)
    assert scores == metrics.aligned_psnr_ssim(*(image / 255 for image in integers))


def test_a_prediction_of_one_colour_cannot_be_aligned(noisy):
    with pytest.raises(UserError, match="cannot be aligned"):
        metrics.aligned_psnr_ssim(np.zeros_like(noisy[1]), noisy[1])


def test_error_reduction_halves_with_six_decibels():
    before, after = metrics.psnr_to_rmse(30), metrics.psnr_to_rmse(30 + 20 * math.log10(2))
    assert metrics.error_reduction(after, before) == pytest.approx(0.5)
    assert metrics.error_reduction(
        metrics.ssim_to_dssim(0.95), metrics.ssim_to_dssim(0.9)
    ) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("score", "a", "b", "message"),
    [
        (metrics.psnr, np.zeros((8, 8)), np.zeros((8, 9)), r"\[8, 8\] and \[8, 9\]"),
        (metrics.psnr, np.zeros((8, 8), np.uint8), np.zeros((8, 8)), "uint8 and float64"),
        (metrics.psnr, np.zeros((8, 8), np.int32), np.zeros((8, 8), np.int32), "int32"),
        (metrics.psnr, np.zeros((8, 8, 4)), np.zeros((8, 8, 4)), r"\[8, 8, 4\]"),
        (metrics.ssim, np.zeros((20, 20, 3)), np.zeros((20, 20, 3)), r"must be \[H, W\]"),
        (metrics.ssim, np.zeros((20, 10)), np.zeros((20, 10)), "11x11"),
        (metrics.volume_ssim, np.zeros((20, 20)), np.zeros((20, 20)), r"must be \[H, W, 3\]"),
        (metrics.psnr, np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint16), "uint8 and uint16"),
        (lambda a, _: metrics.luma(a), np.zeros((8, 8)), None, r"wants \[H, W, 3\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(score, a, b, message):
    with pytest.raises(ValueError, match=message):
        score(a, b)


def test_an_alignment_without_common_pixels_is_an_error(noisy, monkeypatch):
    far = np.array([[1, 0, 5000.0], [0, 1, 0], [0, 0, 1]])
    monkeypatch.setattr(metrics, "find_homography", lambda prediction, target: far)
    with pytest.raises(UserError, match="no pixels in common"):
        metrics.aligned_psnr_ssim(noisy[0], noisy[1])


def test_luma_of_16_bits_is_that_of_8():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    deep = metrics.luma(image * np.uint16(257))
    assert deep.dtype == np.uint16
    # 8 bits are rounded.
    np.testing.assert_allclose(deep / 257, metrics.luma(image), atol=0.51)
