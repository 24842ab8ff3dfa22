"""RealBlur's protocol beside another implementation, written from its definition alone.

Only the search for the alignment is OpenCV's in both, as the definition names it; that what it
finds is right is checked against known homographies.
"""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage import data
from skimage.metrics import structural_similarity

from mprnet_jax.evaluation.protocols import PROTOCOLS

HEIGHT, WIDTH, MARGIN = 120, 160, 30

# From pixels (x, y) of the target to those of the prediction.
HOMOGRAPHIES = {
    "shift": [[1, 0, 2.4], [0, 1, -3.3], [0, 0, 1]],
    "turn": [[0.9996, -0.0281, 2.1], [0.0281, 0.9996, -1.7], [0, 0, 1]],
    "perspective": [[1.012, 0.004, -2.5], [-0.006, 0.991, 3.2], [2e-5, -3e-5, 1]],
}


def apply(homography: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    u, v, w = np.tensordot(homography, np.stack([x, y, np.ones_like(x)]), 1)
    return u / w, v / w


def weight(distance: np.ndarray) -> np.ndarray:
    """The kernel of cubic convolution (Keys, 1981) with OpenCV's a = -0.75."""
    a, d = -0.75, np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def reference(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float, np.ndarray]:
    """PSNR, SSIM and the alignment of a float prediction and an 8-bit target [H, W, 3]."""
    z = np.floor(np.clip(np.float64(prediction), 0, 1) * 255 + 0.5) / 255
    x = target / 255
    z = z * (np.sum(x * z) / np.sum(z * z))

    grey = [np.float32(image @ [0.299, 0.587, 0.114]) for image in (x, z)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    _, homography = cv2.findTransformECC(
        *grey, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, 5
    )

    height, width = grey[0].shape
    columns, rows = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    u, v = apply(homography.astype(float), columns, rows)
    pad = 40
    padded = np.pad(z, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    aligned = np.zeros_like(z)
    for i in range(-1, 3):
        for j in range(-1, 3):
            across, down = np.floor(u) + j, np.floor(v) + i
            share = weight(v - down) * weight(u - across)
            aligned += share[..., None] * padded[np.int64(down) + pad, np.int64(across) + pad]
    inside = (np.rint(u) >= 0) & (np.rint(u) < width) & (np.rint(v) >= 0) & (np.rint(v) < height)
    mask = np.repeat(inside[..., None], 3, axis=2).astype(float)
    x, aligned = x * mask, aligned * mask

    psnr = 10 * np.log10(1 / (np.sum((x - aligned) ** 2) / mask.sum()))

    similarity = []
    for a, b, m in zip(x.transpose(2, 0, 1), aligned.transpose(2, 0, 1), mask.transpose(2, 0, 1)):
        mean_a, mean_b, aa, bb, ab = (
            ndimage.gaussian_filter(i, 1.5, truncate=3.5) for i in (a, b, a * a, b * b, a * b)
        )
        luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        structure = (2 * (ab - mean_a * mean_b) + 0.03**2) / (
            aa - mean_a**2 + bb - mean_b**2 + 0.03**2
        )
        inner = slice(5, -5), slice(5, -5)
        similarity.append((luminance * structure * m)[inner].sum() / m[inner].sum())
    return psnr, np.mean(similarity), homography


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Floats, with a margin around what the target shows; smooth, so that resampling is exact."""
    photo = data.astronaut()[60 : 60 + HEIGHT + 2 * MARGIN, 100 : 100 + WIDTH + 2 * MARGIN]
    return cv2.GaussianBlur(photo / 255, (0, 0), 1.2)


def crop(photo: np.ndarray) -> np.ndarray:
    return photo[MARGIN:-MARGIN, MARGIN:-MARGIN]


def taken_by_another_camera(photo: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """What the target shows, moved by a homography, with splines instead of cubic convolution."""
    columns, rows = np.meshgrid(np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
    u, v = apply(np.linalg.inv(homography), columns, rows)
    places = np.stack([v + MARGIN, u + MARGIN])
    return np.stack([ndimage.map_coordinates(c, places) for c in photo.transpose(2, 0, 1)], axis=2)


@pytest.mark.parametrize("name", HOMOGRAPHIES)
def test_scores_are_those_of_the_definition(photo, name):
    known = np.array(HOMOGRAPHIES[name])
    moved = 0.8 * taken_by_another_camera(photo, known)
    moved += np.random.default_rng(0).normal(0, 0.01, moved.shape)
    target = np.uint8(np.rint(crop(photo) * 255))
    expected_psnr, expected_ssim, found = reference(moved, target)

    corners = np.array([0.0, WIDTH, 0, WIDTH]), np.array([0.0, 0, HEIGHT, HEIGHT])
    distance = np.subtract(apply(np.float64(found), *corners), apply(known, *corners))
    assert np.abs(distance).max() < 0.3  # pixels, at the corners, where it is largest

    psnr, ssim = PROTOCOLS["realblurj"].score(np.float32(moved), target)
    # OpenCV warps in float32, and before version 5 it rounds positions to 1/32 pixel.
    exact = int(cv2.__version__.split(".")[0]) >= 5
    assert psnr == pytest.approx(expected_psnr, abs=1e-4 if exact else 0.02)
    assert ssim == pytest.approx(expected_ssim, abs=1e-5 if exact else 1e-4)


@pytest.mark.parametrize("shift", [(0, 0), (6, -4)])
def test_a_known_shift_scores_as_if_it_were_taken_back(photo, shift):
    across, down = shift
    noise = np.random.default_rng(0).choice([-0.01, 0.01], (HEIGHT, WIDTH, 3))
    moved = photo[MARGIN - down :, MARGIN - across :][:HEIGHT, :WIDTH]
    prediction = np.rint(0.7 * (moved + noise) * 255) / 255
    target = np.rint(crop(photo) * 255) / 255

    # Brightness is matched before the alignment; what it moves in from outside does not count.
    scaled = prediction * (target * prediction).sum() / (prediction**2).sum()
    aligned, mask = (
        ndimage.shift(x, (-down, -across, 0), order=0) for x in (scaled, np.ones_like(scaled))
    )
    error = ((aligned - target) ** 2)[mask == 1].mean()
    _, similarity = structural_similarity(
        aligned,
        target * mask,
        channel_axis=2,
        gaussian_weights=True,
        use_sample_covariance=False,
        data_range=1,
        full=True,
    )
    expected = -10 * np.log10(error), np.average(similarity[5:-5, 5:-5], weights=mask[5:-5, 5:-5])

    scores = PROTOCOLS["realblurr"].score(np.float32(prediction), np.uint8(np.rint(target * 255)))
    # The search finds the shift to a few hundredths of a pixel, and resampling smooths the noise.
    assert scores.psnr == pytest.approx(expected[0], abs=0.2)
    assert scores.ssim == pytest.approx(expected[1], abs=0.005)
