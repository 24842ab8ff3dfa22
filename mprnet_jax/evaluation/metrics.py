"""PSNR and three kinds of SSIM, in float64 NumPy and OpenCV.

Images are arrays [H, W, 3] (RGB) or [H, W], uint8 with peak 255, uint16 with peak 65535, or floats
with peak 1; floats are neither clipped nor rounded. PSNR is in dB (infinite for equal images), SSIM
is at most 1; higher is better for both. Two images that are compared must have the same
shape and the same kind of dtype, else ValueError is raised.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from mprnet_jax.errors import UserError
from mprnet_jax.imageio.pixels import to_dtype, white_of

__all__ = ["aligned_psnr_ssim", "luma", "psnr", "ssim", "volume_ssim"]

Blur = Callable[[np.ndarray], np.ndarray]

INTEGERS = (np.uint8, np.uint16)
RADIUS = 5  # of the SSIM window, which is 11 pixels wide
STRIP = 32  # rows that SSIM is computed for at a time
_offsets = np.arange(-RADIUS, RADIUS + 1)
WINDOW = np.exp(-(_offsets**2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()


def _colour_window() -> np.ndarray:
    """Returns the window along an axis of length 3 with replicated ends, as a [3, 3] matrix."""
    matrix = np.zeros((3, 3))
    for channel in range(3):
        np.add.at(matrix[channel], np.clip(channel + _offsets, 0, 2), WINDOW)
    return matrix


COLOUR_WINDOW = _colour_window()

# Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, times 1000, and a half to round by.
_LUMA = np.array([[65481.0, 128553.0, 24966.0, 255_000 / 2]])


def luma(image: np.ndarray) -> np.ndarray:
    """Returns MATLAB's luma, `rgb2ycbcr(image)(:, :, 1)`.

    Args:
        image: [H, W, 3] RGB.

    Returns:
        [H, W] of the same type. uint8 is in 16..235, rounded half up; sums of integers make ties
        exact. Other types have the same share of white.

    >>> luma(np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)).tolist()
    [[16, 235, 81]]
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"luma wants [H, W, 3], got {list(image.shape)} {image.dtype}")
    if image.dtype != np.uint8:
        white = white_of(image.dtype)
        share = (image / white) @ _LUMA[0, :3] / 255_000 + 16 / 255
        return to_dtype(share, image.dtype)
    return (cv2.transform(image.astype(np.float64), _LUMA) / 255_000).astype(np.uint8) + np.uint8(
        16
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio over all values.

    Args:
        a: [H, W] or [H, W, 3].
        b: of the same shape and kind.

    Returns:
        10 log10(peak^2 / mean squared error) in dB; infinity for equal images.

    >>> round(psnr(np.full((8, 8), 0.5), np.full((8, 8), 0.4)), 6)
    20.0
    """
    peak = _checked_peak(a, b)
    if a.dtype != np.uint8:
        a, b = a.astype(np.float64), b.astype(np.float64)
    return _decibels(peak**2, cv2.norm(a, b, cv2.NORM_L2SQR) / a.size)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the SSIM of Wang et al. (TIP 2004): windows of 11x11 that lie inside the image.

    Args:
        a: [H, W] of at least 11x11.
        b: of the same shape and kind.

    Returns:
        The mean of the map, K = (0.01, 0.03), Gaussian window of sigma 1.5.
    """
    peak = _checked_peak(a, b, rank=2, smallest=2 * RADIUS + 1)
    return _mean_ssim(a, b, peak, _blur)


def volume_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Returns MATLAB's `ssim` of an [H, W, 3] array: SSIM of a volume with colours as its depth.

    The window is a Gaussian of 11x11x11 (sigma 1.5), with borders replicated on all three axes.

    Args:
        a: [H, W, 3].
        b: of the same shape and kind.

    Returns:
        The mean of the map of full size, K = (0.01, 0.03).
    """
    peak = _checked_peak(a, b, rank=3)
    a, b = (
        cv2.copyMakeBorder(x, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REPLICATE) for x in (a, b)
    )
    return _mean_ssim(a, b, peak, lambda x: cv2.transform(_blur(x), COLOUR_WINDOW))


def aligned_psnr_ssim(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Returns PSNR and SSIM after alignment of brightness and position (Rim et al., ECCV 2020).

    Pixels that the alignment takes from outside the prediction count in neither score.

    Args:
        prediction: [H, W, 3], at least 11 pixels a side.
        target: of the same shape and kind.

    Returns:
        PSNR in dB, and SSIM per channel averaged over the channels.

    Raises:
        UserError: if no alignment is found, as for a prediction of one colour, or if it moves
            the whole prediction out of the picture.
    """
    peak = _checked_peak(prediction, target, rank=3, smallest=2 * RADIUS + 1)
    target = target.astype(np.float64) / peak
    scaled = match_brightness(prediction.astype(np.float64) / peak, target)
    aligned, mask = warp(scaled, find_homography(scaled, target))
    if not _inner(mask).any():
        raise UserError(
            "its alignment has no pixels in common with the target; check that both show the same "
            "picture"
        )
    aligned, target = aligned * mask, target * mask
    error = cv2.norm(aligned, target, cv2.NORM_L2SQR) / mask.sum()
    similarity = _inner(_ssim_map(aligned, target, 1, _blur) * mask)
    per_channel = similarity.sum((0, 1)) / _inner(mask).sum((0, 1))
    return _decibels(1, error), float(per_channel.mean())


def match_brightness(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Scales `prediction` to the least squared error from `target`."""
    energy = np.vdot(prediction, prediction)
    return prediction * (np.vdot(prediction, target) / energy if energy else 1)


def find_homography(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the homography [3, 3] from pixels (x, y) of the target to those of the prediction.

    Maximises the enhanced correlation coefficient of the grey images (Evangelidis and Psarakis,
    TPAMI 2008) in 100 iterations from the identity.

    Raises:
        UserError: if the iterations diverge.
    """
    images = (image.astype(np.float32) for image in (target, prediction))
    template, moved = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    start = np.eye(3, dtype=np.float32)
    try:
        _, homography = cv2.findTransformECC(  # type: ignore[call-overload]  # of the mask None
            template, moved, start, cv2.MOTION_HOMOGRAPHY, criteria, inputMask=None, gaussFiltSize=5
        )
    except cv2.error as error:
        raise UserError(
            "cannot be aligned with the target; check that both show the same picture"
        ) from error
    return homography


def warp(image: np.ndarray, homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Warps an image to the target's pixels by a homography of `find_homography`.

    Args:
        image: [H, W, 3] floats.

    Returns:
        The image, and a mask that is 1 where the image has pixels, else 0; [H, W, 3] float64.
    """
    size, inverse = image.shape[1::-1], cv2.WARP_INVERSE_MAP
    image = image.astype(
        np.float32
    )  # OpenCV 5.0.0 gets borders of float64 images wrong with INTER_CUBIC
    warped = cv2.warpPerspective(
        image, homography, size, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REFLECT
    )
    mask = cv2.warpPerspective(
        np.ones_like(image), homography, size, flags=cv2.INTER_NEAREST | inverse
    )
    return warped.astype(np.float64), mask.astype(np.float64)


def psnr_to_rmse(psnr: float) -> float:
    """Converts a PSNR in dB to the root mean squared error relative to the peak."""
    return 10 ** (-psnr / 20)


def ssim_to_dssim(ssim: float) -> float:
    """Converts an SSIM to the structural dissimilarity, (1 - SSIM) / 2."""
    return (1 - ssim) / 2


def error_reduction(error: float, reference: float) -> float:
    """Returns by which share an error (an RMSE or a DSSIM) is smaller than the `reference`.

    One dB more is an RMSE smaller by a tenth:

    >>> round(error_reduction(psnr_to_rmse(33.0), reference=psnr_to_rmse(32.0)), 3)
    0.109
    """
    return 1 - error / reference


def _decibels(power: float, error: float) -> float:
    return 10 * math.log10(power / error) if error else math.inf


def _inner(x: np.ndarray) -> np.ndarray:
    return x[RADIUS:-RADIUS, RADIUS:-RADIUS]


def _blur(x: np.ndarray) -> np.ndarray:
    """Convolves with the window along rows and columns, with replicated borders."""
    return cv2.sepFilter2D(x, cv2.CV_64F, WINDOW, WINDOW, borderType=cv2.BORDER_REPLICATE)


def _mean_ssim(a: np.ndarray, b: np.ndarray, peak: float, blur: Blur) -> float:
    """Returns the mean SSIM of windows inside the images, by strips of rows that fit a cache."""
    total, count = 0.0, 0
    for top in range(0, len(a) - 2 * RADIUS, STRIP):
        rows = slice(top, top + STRIP + 2 * RADIUS)
        similarity = _inner(_ssim_map(a[rows], b[rows], peak, blur))
        total += similarity.sum()
        count += similarity.size
    return float(total / count)


def _ssim_map(a: np.ndarray, b: np.ndarray, peak: float, blur: Blur) -> np.ndarray:
    """Returns SSIM at every pixel.

    The two variances appear only as a sum, so that four blurred maps suffice instead of five.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = blur(a), blur(b)
    means = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    covariance = blur(a * b) - means
    variances = blur(a**2 + b**2) - squares
    return (2 * means + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _checked_peak(
    a: np.ndarray, b: np.ndarray, rank: int | None = None, smallest: int = 1
) -> float:
    """Returns the peak; raises ValueError unless a and b can be compared."""
    if a.shape != b.shape:
        raise ValueError(f"the images' shapes differ: {list(a.shape)} and {list(b.shape)}")
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] != 3) or rank not in (None, a.ndim):
        wanted = {2: "[H, W]", 3: "[H, W, 3]", None: "[H, W] or [H, W, 3]"}[rank]
        raise ValueError(f"images of shape {list(a.shape)}: must be {wanted}")
    if min(a.shape[:2]) < smallest:
        raise ValueError(
            f"images of {a.shape[0]}x{a.shape[1]}: this score needs at least {smallest}x{smallest}"
        )
    if a.dtype.kind == b.dtype.kind == "f" or (a.dtype == b.dtype and a.dtype in INTEGERS):
        return white_of(a.dtype)
    raise ValueError(
        f"images are {a.dtype} and {b.dtype}: must be both uint8, both uint16 or both floats"
    )
