"""Synthetic rain, motion blur and noise, to train and to score on clean photos.

A degradation maps a clean image, uint8 [H, W, 3], to a degraded one of the same shape and dtype. It
draws new random parameters at each call, so that a network cannot memorise it.
"""

from collections.abc import Callable

import cv2
import numpy as np

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


def add_rain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds rain to an image: one to three layers of streaks of random density and shape.

    Streaks brighten the image behind them: image + rain * (light - image).
    """
    height, width = image.shape[:2]
    rain: np.ndarray = np.zeros((height, width), np.float32)
    main_angle = rng.normal(0, 0.3)
    for _ in range(rng.integers(1, 4)):
        kernel = streak(
            length=rng.uniform(6, 30),
            angle=main_angle + rng.normal(0, 0.1),
            width=rng.uniform(0.5, 1.1),
        )
        # Drops outside the picture make streaks that cross its border.
        margin = kernel.shape[0] // 2
        shape = (height + 2 * margin, width + 2 * margin)
        covered = rng.uniform(0.02, 0.2)  # share of the picture that this layer covers
        drops = rng.random(shape, np.float32) < covered / kernel.sum()
        brightness = rng.uniform(0.3, 1.0) * rng.uniform(0.5, 1.0, shape).astype(np.float32)
        layer = cv2.filter2D(drops * brightness, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        rain += layer[margin : margin + height, margin : margin + width]
    rain = np.minimum(rain, 1)[..., None] * rng.uniform(0.6, 0.9)
    light = rng.uniform(0.8, 1.0) * 255
    return np.rint(image + rain * np.maximum(light - image, 0)).astype(np.uint8)


def add_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurs an image like a short straight movement of the camera, with reflected borders."""
    kernel = streak(length=rng.uniform(2, 6), angle=rng.uniform(0, np.pi), width=0.5)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds a sensor's noise: Gaussian with variance a * image + b (shot noise and read noise).

    Its standard deviation is 20 to 30 (of 255) for black, and up to 44 for white.
    """
    a, b = rng.uniform(0, 4), rng.uniform(20, 30) ** 2
    deviation = np.sqrt(a * image + b, dtype=np.float32)
    noise = deviation * rng.standard_normal(image.shape, np.float32)
    return np.rint(np.clip(image + noise, 0, 255)).astype(np.uint8)
