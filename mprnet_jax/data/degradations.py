"""Synthetic rain, motion blur and noise, to train and to score on clean photos.

A degradation maps a clean image, uint8 [H, W, 3], to a degraded one of the same shape and dtype. It
draws new random parameters at each call, so that a network cannot memorise it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mprnet_jax.data.camera import draw_camera, photograph

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def streak(length: float, angle: float, width: float) -> np.ndarray:
    """Returns a motion-blur kernel: a line segment with a Gaussian profile.

    Args:
        length: of the streak in pixels.
        angle: from the vertical, in radians.
        width: standard deviation of the Gaussian profile across the streak, in pixels.

    Returns:
        [k, k] floats with maximum 1; float64 if an argument is a NumPy float64 scalar.
    """
    radius = int(np.ceil(length / 2 + 2 * width))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along = y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    past_the_end = np.maximum(np.abs(along) - length / 2, 0)
    return np.exp(-(across**2 + past_the_end**2) / (2 * width**2))


@dataclasses.dataclass(frozen=True)
class RainRanges:
    """From what ranges the parameters of rain are drawn."""

    layers: tuple[int, int]  # streaks of one layer have one shape
    spread: float  # standard deviation of the angle from the vertical, in radians
    length: tuple[float, float]  # of streaks, in pixels
    width: tuple[float, float]  # of streaks: standard deviation of their profile, in pixels
    covered: tuple[float, float]  # share of the picture that a layer covers
    opacity: tuple[float, float]  # of the brightest streaks


LIGHT_RAIN = RainRanges(
    layers=(1, 3),
    spread=0.3,
    length=(6, 30),
    width=(0.5, 1.1),
    covered=(0.02, 0.2),
    opacity=(0.6, 0.9),
)
ANY_RAIN = RainRanges(
    layers=(1, 4),
    spread=0.4,
    length=(4, 60),
    width=(0.4, 1.6),
    covered=(0.02, 0.3),
    opacity=(0.5, 1.0),
)


def draw_rain(
    size: Sequence[int], ranges: RainRanges, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Draws rain.

    Args:
        size: height and width in pixels.
        ranges: of its parameters.
        rng: source of randomness.

    Returns:
        Its opacity at each pixel, float32 [H, W, 1] in [0, 1]; and the brightness of streaks, in
        [0.8, 1].
    """
    height, width = size
    rain: np.ndarray = np.zeros((height, width), np.float32)
    main_angle = rng.normal(0, ranges.spread)
    low, high = ranges.layers
    for _ in range(rng.integers(low, high + 1)):
        kernel = streak(
            length=rng.uniform(*ranges.length),
            angle=main_angle + rng.normal(0, 0.1),
            width=rng.uniform(*ranges.width),
        )
        # Drops outside the picture make streaks that cross its border.
        margin = kernel.shape[0] // 2
        shape = (height + 2 * margin, width + 2 * margin)
        covered = rng.uniform(*ranges.covered)
        drops = rng.random(shape, np.float32) < covered / kernel.sum()
        brightness = rng.uniform(0.3, 1.0) * rng.uniform(0.5, 1.0, shape).astype(np.float32)
        layer = cv2.filter2D(drops * brightness, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        rain += layer[margin : margin + height, margin : margin + width]
    opacity = np.minimum(rain, 1)[..., None] * rng.uniform(*ranges.opacity)
    return opacity, rng.uniform(0.8, 1.0)


def add_rain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds rain to an image: one to three layers of streaks of random density and shape.

    Streaks brighten the image behind them: image + rain * (light - image).
    """
    rain, light = draw_rain(image.shape[:2], LIGHT_RAIN, rng)
    return np.rint(image + rain * np.maximum(light * 255 - image, 0)).astype(np.uint8)


def add_rain_and_haze(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds rain of all kinds to an image: drizzle to downpour, near and far, at times with haze."""
    rain, light = draw_rain(image.shape[:2], ANY_RAIN, rng)
    if rng.random() < 1 / 3:  # streaks near the lens are out of focus
        rain = cv2.GaussianBlur(rain, (0, 0), rng.uniform(0.5, 2))[..., None]
    haze = rng.uniform(0, 0.15) if rng.random() < 1 / 2 else 0.0
    light *= 255
    hazy = image + haze * (light - image.astype(np.float32))
    return np.rint(hazy + rain * np.maximum(light - hazy, 0)).clip(0, 255).astype(np.uint8)


def add_any_rain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds rain and haze to an image.

    One image in twenty stays unchanged, so that a network learns to leave dry photos alone.
    """
    return image.copy() if rng.random() < 0.05 else add_rain_and_haze(image, rng)


def add_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurs an image like a short straight movement of the camera, with reflected borders."""
    kernel = streak(length=rng.uniform(2, 6), angle=rng.uniform(0, np.pi), width=0.5)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds a sensor's noise: Gaussian with variance a * image + b (shot noise and read noise).

    Its standard deviation is 20 to 30 (of 255) for black, and up to 44 for white.
    """
    a, b = rng.uniform(0, 4), rng.uniform(20, 30) ** 2
    return _with_noise(image, np.sqrt(a * image + b, dtype=np.float32), rng)


def add_gaussian_noise(
    image: np.ndarray, rng: np.random.Generator, deviation: float | None = None
) -> np.ndarray:
    """Adds Gaussian noise of one standard deviation, by default between 0 and 50 (of 255)."""
    if deviation is None:
        deviation = rng.uniform(0, 50)
    return _with_noise(image, np.float32(deviation), rng)


def _with_noise(
    image: np.ndarray, deviation: np.ndarray | np.float32, rng: np.random.Generator
) -> np.ndarray:
    """Adds Gaussian noise of this standard deviation, float32 [H, W, 3] or one for all."""
    noise = deviation * rng.standard_normal(image.shape, np.float32)
    return np.rint(np.clip(image + noise, 0, 255)).astype(np.uint8)


def add_blind_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of unknown kind and strength: Gaussian noise, or that of a camera.

    One image in twenty stays unchanged, so that a network learns to leave clean photos alone.
    """
    kind = rng.random()
    if kind < 0.05:
        return image.copy()
    if kind < 0.5:
        return add_gaussian_noise(image, rng)
    return photograph(image, draw_camera(rng), rng)


DEGRADATIONS: dict[str, Degradation] = {
    "rain": add_rain,
    "blur": add_blur,
    "noise": add_noise,
    "blind_noise": add_blind_noise,
    "rain_and_haze": add_any_rain,
}
