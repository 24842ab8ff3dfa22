"""Pictures of pairs as 8-bit RGB, whole ones and damaged ones."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import rgb
from mprnet_jax.imageio.rgb import decode, header_size


def picture(seed, size=(12, 10)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def text(path):
    path.write_text("no picture")


def empty(path):
    path.write_bytes(b"")


def gif(path):
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "GIF")
    path.write_bytes(buffer.getvalue())


def sixteen_bits(path):
    cv2.imwrite(str(path), picture(0)[..., 0].astype(np.uint16) * 257)


def sixteen_bits_of_rgb(path):
    cv2.imwrite(str(path), picture(0).astype(np.uint16) * 257)


def palette_missing(path):
    Image.fromarray(picture(0)).convert("P").save(path, transparency=0)
    data = path.read_bytes()
    start = data.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", data, start)
    path.write_bytes(data[:start] + data[start + 12 + length :])


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rgb, "MAX_PIXELS", 80)
    Image.new("RGB", (9, 9)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"large\.png: has more than 80 pixels"):
        decode(tmp_path / "large.png")


@pytest.mark.parametrize(
    "damage", [truncated, text, empty, gif, sixteen_bits, sixteen_bits_of_rgb, palette_missing]
)
def test_unreadable_pictures_are_named(tmp_path, damage):
    path = tmp_path / "a.png"
    Image.fromarray(picture(0, size=(40, 40))).save(path)
    damage(path)
    with pytest.raises(UserError, match=r"a\.png"):
        decode(path)


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    image = Image.fromarray(picture(0))
    for mode in ("L", "P", "RGBA"):
        image.convert(mode).save(tmp_path / f"{mode}.png")
        expected = np.asarray(image.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(decode(tmp_path / f"{mode}.png"), expected)


def test_the_size_is_read_from_the_header(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    assert header_size(tmp_path / "a.png") == decode(tmp_path / "a.png").shape[:2] == (12, 10)


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError])
def test_a_defect_in_decoding_is_not_reported_as_damage(tmp_path, monkeypatch, error):
    def defect(*_):
        raise error("a defect")

    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    monkeypatch.setattr(rgb, "png_depth_and_type", defect)
    with pytest.raises(error, match="a defect"):
        decode(tmp_path / "a.png")
