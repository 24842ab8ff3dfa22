"""Restores held-out photos with our networks and with classical methods, and scores them.

    python -m benchmarks.quality --corpus corpus --denoise denoise [--derain derain] \\
        [--crop 512] [--only camera] [--sheet quality.png]

The photos are center crops of the split "held_out" of the corpus, each with five draws of rain or
with one of noise. Our networks are blind. Each classical method knows the noise: it gets the true
root mean square of the noise, times the factor that is best on the split "validation" for that kind
of noise. Wavelets need the package PyWavelets, and CBM3D bm3d, which is free for research only.
"""

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from skimage import restoration as skimage_restoration
from tqdm import tqdm

from benchmarks.tables import heading, table
from mprnet_jax import Restorer, load
from mprnet_jax.data.augment import center_crop
from mprnet_jax.data.camera import draw_camera, photograph
from mprnet_jax.data.degradations import (
    Degradation,
    add_gaussian_noise,
    add_rain,
    add_rain_and_haze,
)
from mprnet_jax.data.pairs import PhotoFolder
from mprnet_jax.devices import compiling
from mprnet_jax.evaluation.metrics import psnr, volume_ssim
from mprnet_jax.imageio.pixels import to_uint8
from mprnet_jax.imageio.sheets import make_sheet, write_png

# Maps a uint8 image and the noise's root mean square (of 255) to a uint8 image.
Method = Callable[[np.ndarray, float], np.ndarray]

FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)
TUNING_CROP = 128
DETAIL = 160  # side in pixels of the parts that the sheet shows
CAMERA_SHOTS = {"weak": 0.0008, "medium": 0.003, "strong": 0.012}


def unchanged(image: np.ndarray, _: object) -> np.ndarray:
    """The degradation and the method that do nothing."""
    return image


def camera_noise(image: np.ndarray, rng: np.random.Generator, shot: float) -> np.ndarray:
    """Takes a photo with a random camera of this shot noise."""
    return photograph(image, draw_camera(rng, shot), rng)


NOISES: dict[str, Degradation] = {
    "none": unchanged,
    **{
        f"Gaussian {sigma}": functools.partial(add_gaussian_noise, deviation=sigma)
        for sigma in (15, 25, 50)
    },
    **{
        f"camera, {name}": functools.partial(camera_noise, shot=shot)
        for name, shot in CAMERA_SHOTS.items()
    },
}

RAINS: dict[str, Degradation] = {
    "no rain": unchanged,
    "light rain": add_rain,
    "rain and haze": add_rain_and_haze,
}
DRAWS_OF_RAIN = 5  # for each photo; rain differs more than noise from draw to draw


def opencv_nl_means(image: np.ndarray, sigma: float) -> np.ndarray:
    """OpenCV's fastNlMeansDenoisingColored."""
    return cv2.fastNlMeansDenoisingColored(image, None, sigma, sigma)


def wavelet(image: np.ndarray, sigma: float) -> np.ndarray:
    """scikit-image's wavelet denoising, BayesShrink in YCbCr."""
    result = skimage_restoration.denoise_wavelet(
        image / 255,
        sigma=max(sigma, 1e-3) / 255,
        convert2ycbcr=True,
        channel_axis=-1,
        rescale_sigma=True,
    )
    return to_uint8(result)


def total_variation(image: np.ndarray, sigma: float) -> np.ndarray:
    """scikit-image's total-variation denoising (Chambolle)."""
    weight = max(sigma, 1e-3) / 255
    return to_uint8(
        skimage_restoration.denoise_tv_chambolle(image / 255, weight=weight, channel_axis=-1)
    )


def nl_means(image: np.ndarray, sigma: float) -> np.ndarray:
    """scikit-image's non-local means."""
    result = skimage_restoration.denoise_nl_means(
        image / 255,
        patch_size=5,
        patch_distance=6,
        h=max(sigma, 1e-3) / 255,
        fast_mode=True,
        channel_axis=-1,
    )
    return to_uint8(result)


def cbm3d(image: np.ndarray, sigma: float) -> np.ndarray:
    """CBM3D (Dabov et al., 2007), by the package bm3d of its authors."""
    import bm3d

    return to_uint8(bm3d.bm3d_rgb(image / 255, max(sigma, 1e-3) / 255))


METHODS: dict[str, Method] = {
    "OpenCV NL means": opencv_nl_means,
    "skimage TV": total_variation,
    "skimage NL means": nl_means,
}
if importlib.util.find_spec("pywt"):
    METHODS["skimage wavelet"] = wavelet
if importlib.util.find_spec("bm3d"):
    METHODS["CBM3D"] = cbm3d


class Case(NamedTuple):
    """A comparison: photos, how they are degraded, and what restores them."""

    name: str
    degrade: Degradation
    ours: Method
    methods: dict[str, Method]
    photos: list[np.ndarray]


class Score(NamedTuple):
    """Scores and seconds of one method on the photos, each [N]."""

    psnr: np.ndarray
    ssim: np.ndarray
    seconds: np.ndarray


def photos_of(corpus: Path, split: str, crop: int) -> list[np.ndarray]:
    """Returns center crops of the photos of a split."""
    source = PhotoFolder(corpus / split)
    return [
        np.ascontiguousarray(center_crop(source[index], crop)["target"])
        for index in range(len(source))
    ]


def degraded(degrade: Degradation, photos: list[np.ndarray]) -> list[np.ndarray]:
    """Degrades each photo, always alike."""
    return [degrade(photo, np.random.default_rng((1, i))) for i, photo in enumerate(photos)]


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the root mean square of the difference of two images."""
    return float(cv2.norm(a, b, cv2.NORM_L2) / np.sqrt(a.size))


def tuned(method: Method, noisy: list[np.ndarray], clean: list[np.ndarray]) -> float:
    """Returns the factor of the noise's root mean square with the best mean PSNR."""

    def mean_psnr(factor: float) -> float:
        return float(
            np.mean([psnr(method(n, factor * rms(n, c)), c) for n, c in zip(noisy, clean)])
        )

    return max(FACTORS, key=mean_psnr)


def measure(
    method: Method, factor: float, noisy: list[np.ndarray], clean: list[np.ndarray]
) -> tuple[Score, list[np.ndarray]]:
    """Returns scores and results of a method."""
    rows, results = [], []
    for image, target in zip(noisy, clean):
        sigma = factor * rms(image, target)
        start = time.perf_counter()
        result = method(image, sigma)
        seconds = time.perf_counter() - start
        rows.append((min(psnr(result, target), 100.0), volume_ssim(result, target), seconds))
        results.append(result)
    return Score(*np.array(rows).T), results


def network(weights: str) -> Method:
    """Returns a network as a method, which ignores the noise's root mean square."""
    restorer = Restorer(load(weights))
    return lambda image, _: to_uint8(restorer(image))


def compare(
    case: Case, validation: list[np.ndarray]
) -> tuple[dict[str, Score], dict[str, list[np.ndarray]]]:
    """Returns scores and results of the input, of ours and of each method."""
    noisy, tuning = degraded(case.degrade, case.photos), degraded(case.degrade, validation)
    scores, results = {}, {}
    case.ours(noisy[0], 0)  # compiles
    for name, method in {"input": unchanged, "ours": case.ours, **case.methods}.items():
        factor = tuned(method, tuning, validation) if name in case.methods else 1.0
        scores[name], results[name] = measure(method, factor, noisy, case.photos)
    return scores, results


def difference(ours: Score, other: Score) -> str:
    """Returns the mean gain in dB with its 95 % confidence interval (normal)."""
    gains = ours.psnr - other.psnr
    half = 1.96 * gains.std(ddof=1) / np.sqrt(len(gains))
    return f"{gains.mean():+.2f} ± {half:.2f}"


def details(image: np.ndarray) -> np.ndarray:
    """Returns the central part that the sheet shows."""
    return center_crop({"image": image}, DETAIL)["image"]


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--denoise", help="weights of the denoising network")
    parser.add_argument("--derain", help="weights of the deraining network")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--only", default="", help="noise and rain whose name contains this")
    parser.add_argument("--sheet", type=Path, help="PNG file for a sheet of crops")
    arguments = parser.parse_args()
    if not (arguments.denoise or arguments.derain):
        parser.error("give --denoise, --derain or both")
    compiling.use_compile_cache()
    held_out = photos_of(arguments.corpus, "held_out", arguments.crop)
    validation = photos_of(arguments.corpus, "validation", TUNING_CROP)
    cases = []
    if arguments.denoise:
        ours = network(arguments.denoise)
        for name, noise in NOISES.items():
            methods = METHODS if noise is not unchanged else {}
            cases.append(Case(name, noise, ours, methods, held_out))
    if arguments.derain:
        ours = network(arguments.derain)
        for name, rain in RAINS.items():
            cases.append(Case(name, rain, ours, {}, held_out * DRAWS_OF_RAIN))
    cases = [case for case in cases if arguments.only in case.name]
    rows, sheet = [], []
    for case in tqdm(cases, unit="case"):
        scores, results = compare(case, validation)
        for method, score in scores.items():
            gain = "" if method == "ours" else difference(scores["ours"], score)
            figures = (score.psnr.mean(), score.ssim.mean(), score.seconds.mean())
            rows.append(
                [
                    case.name,
                    method,
                    f"{figures[0]:.2f}",
                    f"{figures[1]:.3f}",
                    f"{figures[2]:.3f}",
                    gain,
                ]
            )
        shown = len(sheet) % len(held_out)  # another photo in each row
        sheet.append(
            [(f"{m} {scores[m].psnr[shown]:.2f} dB", details(r[shown])) for m, r in results.items()]
            + [(case.name, details(held_out[shown]))]
        )
    print(heading("Quality on held-out photos", "python -m benchmarks.quality"))
    print(table(["noise", "method", "PSNR, dB", "SSIM", "seconds", "ours better by, dB"], rows))
    if arguments.sheet:
        width = max(map(len, sheet))
        write_png(arguments.sheet, make_sheet([row for row in sheet if len(row) == width]))


if __name__ == "__main__":
    main()
