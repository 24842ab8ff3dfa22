"""Times the scoring of 100 pairs of 480x320 beside the same metrics in a plain loop.

    python -m benchmarks.scoring

The plain loop computes the metrics image by image with scikit-image and SciPy. Both run in
alternation in one process and must give the same scores. The table shows medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.tables import heading
from mprnet_jax.data.pairs import Example
from mprnet_jax.evaluation.protocols import PROTOCOLS
from mprnet_jax.evaluation.scoring import score_set
from mprnet_jax.imageio.pixels import to_uint8

PAIRS = 100
REPEATS = 5


class Pairs(Sequence[Example]):
    """Photos of 480x320 with increasing noise."""

    def __init__(self, count: int):
        random = np.random.default_rng(0)
        target = data.astronaut()[:320, :480]
        self.names = [str(number) for number in range(count)]
        self._examples = [
            {
                "degraded": np.float32(
                    target / 255 + random.normal(0, 0.01 + n / 1000, (320, 480, 3))
                ),
                "target": target,
            }
            for n in range(count)
        ]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def plain_luma(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Computes the scores of deraining in the plainest way."""
    a, b = (
        np.floor(image @ np.array([65.481, 128.553, 24.966]) / 255 + 16.5)
        for image in (to_uint8(prediction), target)
    )
    _, similarity = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return peak_signal_noise_ratio(a, b, data_range=255), similarity[5:-5, 5:-5].mean()


def plain_rgb(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Computes the scores of deblurring in the plainest way."""
    a, b = to_uint8(prediction).astype(np.float64), target.astype(np.float64)

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, mode="nearest", radius=5)

    mean_a, mean_b = blur(a), blur(b)
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variances + c2)
    return peak_signal_noise_ratio(a, b, data_range=255), similarity.mean()


def loop(source: Pairs, score: Callable) -> list[tuple[float, float]]:
    """Scores image by image."""
    return [score(example["degraded"], example["target"]) for example in source]


def ours(source: Pairs, key: str) -> list[tuple[float, float]]:
    """Scores as the evaluate command does."""

    def restore(example: Example) -> np.ndarray:
        return example["degraded"]

    images = score_set(source, PROTOCOLS[key], restore, title=key).images
    return [(image.psnr, image.ssim) for image in images]


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # only for --help
    print(heading("Scoring", "python -m benchmarks.scoring"))
    source = Pairs(PAIRS)
    print(f"| scores of {PAIRS} pairs of 480x320 | plain loop, s | ours, s | ours / plain |")
    print("|---|---|---|---|")
    for name, key, score in (
        ("Y, SSIM of 2004", "rain100l", plain_luma),
        ("RGB, volume SSIM", "gopro", plain_rgb),
    ):
        seconds = {"plain": [], "ours": []}
        for _ in range(REPEATS):
            start = time.perf_counter()
            expected = loop(source, score)
            middle = time.perf_counter()
            scores = ours(source, key)
            seconds["plain"].append(middle - start)
            seconds["ours"].append(time.perf_counter() - middle)
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
        plain, fast = (statistics.median(seconds[kind]) for kind in ("plain", "ours"))
        print(f"| {name} | {plain:.2f} | {fast:.2f} | {fast / plain:.2f} |")


if __name__ == "__main__":
    main()
