"""Converts Pillow's pictures of all colour modes to arrays of 8 bits."""

import io

import numpy as np
from PIL import Image, ImageCms

from mprnet_jax.errors import UserError
from mprnet_jax.imageio.damage import DECODER_ERRORS, report_damage

# Pillow's mode of a picture -> the mode it is converted to.
MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}


def to_array(name: str, picture: Image.Image) -> np.ndarray:
    """Decodes a picture to uint8 [H, W, C], as its pixels are stored.

    Inks (CMYK) become sRGB through the picture's profile, or by Pillow's rule of thumb without one.

    Args:
        name: what error messages call it.
        picture: not decoded yet.

    Raises:
        UserError: if it is damaged, or in colours that are neither grey, RGB nor CMYK.
    """
    mode = MODES.get(picture.mode)
    if mode is None:
        raise UserError(f"{name}: has colour mode {picture.mode}; convert it to RGB")
    if "transparency" in picture.info:
        mode = WITH_ALPHA.get(mode, mode)
    with report_damage(name):
        if picture.mode == "CMYK":
            picture = from_inks(picture)
        pixels = np.asarray(picture.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def from_inks(picture: Image.Image) -> Image.Image:
    """Converts CMYK to RGB."""
    picture.load()
    if profile := picture.info.get("icc_profile"):
        try:
            converted = ImageCms.profileToProfile(
                picture,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, *DECODER_ERRORS):
            converted = None  # a damaged profile must not cost the photo
        if converted is not None:
            return converted
    return picture.convert("RGB")
