"""How each benchmark is scored, the published figures, and those of earlier methods.

A protocol's `score` takes the network's output, float32 [H, W, 3] with white at 1, neither clipped
nor rounded, and its target [H, W, 3], and returns PSNR in dB and SSIM. Targets of all published
sets are uint8; where those of another set are uint16, the output is rounded to 16 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import metrics
from mprnet_jax.imageio.pixels import to_dtype, white_of


class Scores(NamedTuple):
    """PSNR in dB and SSIM of an image, or their means over a set."""

    psnr: float
    ssim: float


def luma_scores(prediction: np.ndarray, target: np.ndarray) -> Scores:
    """Scores deraining: MATLAB's luma of 8-bit images, and the SSIM of 2004."""
    _check_sides(prediction)
    a, b = metrics.luma(rounded_like(prediction, target)), metrics.luma(target)
    return Scores(metrics.psnr(a, b), metrics.ssim(a, b))


def rgb_scores(prediction: np.ndarray, target: np.ndarray) -> Scores:
    """Scores deblurring: 8-bit RGB, and MATLAB's SSIM with colours as depth of a volume."""
    image = rounded_like(prediction, target)
    return Scores(metrics.psnr(image, target), metrics.volume_ssim(image, target))


def aligned_scores(prediction: np.ndarray, target: np.ndarray) -> Scores:
    """Scores RealBlur: 8-bit RGB, aligned to the target of a second camera."""
    _check_sides(prediction)
    return Scores(*metrics.aligned_psnr_ssim(rounded_like(prediction, target), target))


def float_scores(prediction: np.ndarray, target: np.ndarray) -> Scores:
    """Scores denoising: clipped, not rounded RGB, and MATLAB's SSIM as for deblurring."""
    image, target = np.clip(prediction, 0, 1), target / white_of(target.dtype)
    return Scores(metrics.psnr(image, target), metrics.volume_ssim(image, target))


def rounded_like(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Clips a prediction, and rounds it to the target's type if that is of integers."""
    return to_dtype(np.clip(np.nan_to_num(prediction), 0, 1), target.dtype)


def _check_sides(image: np.ndarray) -> None:
    """Raises UserError for an image smaller than SSIM's window."""
    height, width = image.shape[:2]
    if min(height, width) <= 2 * metrics.RADIUS:
        side = 2 * metrics.RADIUS + 1
        raise UserError(f"the image is {width}x{height}: its SSIM needs at least {side}x{side}")


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is scored."""

    label: str  # channels, rounding and kind of SSIM
    # Scores a finite prediction and its target; None where targets are not public.
    score: Callable[[np.ndarray, np.ndarray], Scores] | None
    published: Scores | None = None  # of the authors' weights
    source: str = ""  # of the published figures


class Earlier(NamedTuple):
    """A method that came before MPRNet, and its scores."""

    method: str
    scores: Scores


LUMA = "Y, 8 bits, SSIM of 2004"
RGB = "RGB, 8 bits, volume SSIM"
ALIGNED = "RGB, 8 bits, aligned"
FLOAT = "RGB, not rounded, volume SSIM"
SERVER = "by its server, from the submission"
LATER_PAPERS, LEADERBOARD = "quoted by later papers", "public leaderboard"
PROMPT_RESTORER = "PromptRestorer's table 2"  # of the weights trained on GoPro

PROTOCOLS = {
    "test100": Protocol(LUMA, luma_scores, Scores(30.27, 0.897), LATER_PAPERS),
    "rain100h": Protocol(LUMA, luma_scores, Scores(30.41, 0.890), LATER_PAPERS),
    "rain100l": Protocol(LUMA, luma_scores, Scores(36.40, 0.965), LATER_PAPERS),
    "test2800": Protocol(LUMA, luma_scores, Scores(33.64, 0.938), LATER_PAPERS),
    "test1200": Protocol(LUMA, luma_scores, Scores(32.91, 0.916), LATER_PAPERS),
    "gopro": Protocol(RGB, rgb_scores, Scores(32.66, 0.959), LEADERBOARD),
    "hide": Protocol(RGB, rgb_scores, Scores(30.96, 0.939), LEADERBOARD),
    "realblurj": Protocol(ALIGNED, aligned_scores, Scores(28.70, 0.873), PROMPT_RESTORER),
    "realblurr": Protocol(ALIGNED, aligned_scores, Scores(35.99, 0.952), PROMPT_RESTORER),
    "sidd": Protocol(FLOAT, float_scores, Scores(39.71, 0.958), "NAFNet's table 6"),
    "dnd": Protocol(SERVER, None, Scores(39.80, 0.954), LEADERBOARD),
}

# The sets whose unweighted mean is the paper's average for deraining, and that mean.
DERAINING = ("test100", "rain100h", "rain100l", "test2800", "test1200")
DERAINING_MEAN = Scores(32.73, 0.921)

# The scores of the methods to which the paper compares MPRNet by error reduction, from tables 1 and
# 2 of a later paper (Wang et al., "PromptRestorer", NeurIPS 2023). The percentages that MPRNet's
# paper prints come out of them (`tests/evaluation/test_report.py`).
MSPFN, SUIN = "MSPFN", "Suin et al."  # both of CVPR 2020
EARLIER_SOURCE = "PromptRestorer's tables 1 and 2"
EARLIER = {
    "test100": Earlier(MSPFN, Scores(27.50, 0.876)),
    "rain100h": Earlier(MSPFN, Scores(28.66, 0.860)),
    "rain100l": Earlier(MSPFN, Scores(32.40, 0.933)),
    "test2800": Earlier(MSPFN, Scores(32.82, 0.930)),
    "test1200": Earlier(MSPFN, Scores(32.39, 0.916)),
    "gopro": Earlier(SUIN, Scores(31.85, 0.948)),
    "hide": Earlier(SUIN, Scores(29.98, 0.930)),
}
DERAINING_MEAN_EARLIER = Earlier(MSPFN, Scores(30.75, 0.903))
