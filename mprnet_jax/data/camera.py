"""A camera's noise: takes a photo once more, through a noisy sensor behind a mosaic of colours.

A clean photo is turned back into what a sensor would have recorded, noise is added where it arises,
and the result is developed as cameras do. So the noise has a camera's colours, its grain of a few
pixels, and the traces of JPEG.

Reference: Brooks et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

GAMMA = 2.2
# Natural logarithms of the range of shot noise, and the line along which read noise follows it, as
# Brooks et al. fitted them to real cameras (section 3.1, their figure 3).
LOG_SHOT = (math.log(0.0001), math.log(0.012))
LOG_READ_SLOPE, LOG_READ_OFFSET, LOG_READ_DEVIATION = 2.18, 1.20, 0.26

# Bilinear filters corrected by the gradient of the colour that each pixel has. Reference: Malvar,
# He and Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color
# images", ICASSP 2004, figure 2.
_CROSS = (
    np.array(
        [
            [0, 0, -1, 0, 0],
            [0, 0, 2, 0, 0],
            [-1, 2, 4, 2, -1],
            [0, 0, 2, 0, 0],
            [0, 0, -1, 0, 0],
        ],
        np.float32,
    )
    / 8
)
_ROW = (
    np.array(
        [
            [0, 0, 0.5, 0, 0],
            [0, -1, 0, -1, 0],
            [-1, 4, 5, 4, -1],
            [0, -1, 0, -1, 0],
            [0, 0, 0.5, 0, 0],
        ],
        np.float32,
    )
    / 8
)
_DIAGONAL = (
    np.array(
        [
            [0, 0, -1.5, 0, 0],
            [0, 2, 0, 2, 0],
            [-1.5, 0, 6, 0, -1.5],
            [0, 2, 0, 2, 0],
            [0, 0, -1.5, 0, 0],
        ],
        np.float32,
    )
    / 8
)


@dataclass(frozen=True)
class Camera:
    """What decides how a camera renders a scene and its noise.

    Attributes:
        matrix: float32 [3, 3], from the sensor's colours to linear sRGB; rows sum to 1, so that
            white stays white.
        gains: float32 [3], of white balance; that of green is 1.
        shot: variance of the noise per unit of signal; 1 is the sensor's white.
        read: variance of the noise without signal.
        quality: of the JPEG file, 1 to 100.
    """

    matrix: np.ndarray
    gains: np.ndarray
    shot: float
    read: float
    quality: int


def draw_camera(rng: np.random.Generator, shot: float | None = None) -> Camera:
    """Draws a camera; `shot` is drawn too unless it is given."""
    if shot is None:
        shot = math.exp(rng.uniform(*LOG_SHOT))
    log_read = LOG_READ_SLOPE * math.log(shot) + LOG_READ_OFFSET
    # Sensors' colours overlap, so a matrix takes from each colour a share of the others.
    matrix = -rng.uniform(0.0, 0.6, (3, 3)).astype(np.float32)
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(1))
    return Camera(
        matrix=matrix,
        gains=np.array([rng.uniform(1.9, 2.4), 1, rng.uniform(1.5, 1.9)], np.float32),
        shot=shot,
        read=math.exp(rng.normal(log_read, LOG_READ_DEVIATION)),
        quality=int(rng.integers(60, 100, endpoint=True)),
    )


def photograph(image: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Takes a noisy photo of a clean one, both uint8 [H, W, 3] RGB."""
    mosaic = to_mosaic(to_sensor(image, camera))
    deviation = np.sqrt(camera.shot * np.maximum(mosaic, 0) + camera.read)
    mosaic += deviation * rng.standard_normal(mosaic.shape, np.float32)
    developed = develop(demosaic(mosaic), camera)
    _, file = cv2.imencode(".jpg", developed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
    return cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]  # never None


def to_sensor(image: np.ndarray, camera: Camera) -> np.ndarray:
    """Returns the light that a photo, uint8 [H, W, 3], was made of, in the sensor's colours.

    It is not clipped: colours beyond the sensor's range are slightly negative or above 1. Clipping
    would change colours, which a network should not learn to undo.
    """
    x = image.astype(np.float32) / 255
    x = 0.5 - np.sin(np.arcsin(1 - 2 * x) / 3)  # undoes the tone curve, 3 x^2 - 2 x^3
    linear = x**GAMMA
    return linear @ np.linalg.inv(camera.matrix).T.astype(np.float32) / camera.gains


def develop(sensor: np.ndarray, camera: Camera) -> np.ndarray:
    """Renders the sensor's light, float32 [H, W, 3], as a photo, uint8 [H, W, 3]."""
    linear = (sensor * camera.gains) @ camera.matrix.T
    x = np.clip(linear, 0, 1) ** np.float32(1 / GAMMA)
    return np.rint(255 * (3 * x**2 - 2 * x**3)).astype(np.uint8)


def to_mosaic(image: np.ndarray) -> np.ndarray:
    """Keeps one colour a pixel, in Bayer's order RGGB: [H, W, 3] to [H, W]."""
    mosaic = image[..., 1].copy()
    mosaic[::2, ::2] = image[::2, ::2, 0]
    mosaic[1::2, 1::2] = image[1::2, 1::2, 2]
    return mosaic


def demosaic(mosaic: np.ndarray) -> np.ndarray:
    """Fills in the missing colours of a mosaic in Bayer's order RGGB: float32 [H, W] to [H, W, 3].

    The borders are reflected.
    """
    cross, row, column, diagonal = (
        cv2.filter2D(mosaic, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        for kernel in (_CROSS, _ROW, _ROW.T, _DIAGONAL)
    )
    image = np.repeat(mosaic[..., None], 3, axis=2)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    green[::2, ::2] = cross[::2, ::2]
    green[1::2, 1::2] = cross[1::2, 1::2]
    # The other two colours of the green pixels of rows with red, and of those with blue.
    red[::2, 1::2], blue[::2, 1::2] = row[::2, 1::2], column[::2, 1::2]
    red[1::2, ::2], blue[1::2, ::2] = column[1::2, ::2], row[1::2, ::2]
    red[1::2, 1::2], blue[::2, ::2] = diagonal[1::2, 1::2], diagonal[::2, ::2]
    return image
