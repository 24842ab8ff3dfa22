"""Pictures of pairs as RGB: the rules are those of photos to restore."""

import io
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos, rgb
from mprnet_jax.imageio.rgb import decode, header_dtype, header_size, is_plain

pictures = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
noise, picture_of = pictures["noise"], pictures["picture_of"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def text(path):
    path.write_text("no picture")


def empty(path):
    path.write_bytes(b"")


def gif(path):
    buffer = io.BytesIO()
    picture_of(noise(3)).save(buffer, "GIF")
    path.write_bytes(buffer.getvalue())


def pages(path):
    photos.write(path.with_suffix(".tif"), [photos.Photo(noise(3))] * 2)
    path.with_suffix(".tif").rename(path)


def palette_missing(path):
    picture_of(noise(3)).convert("P").save(path, transparency=0)
    data = path.read_bytes()
    start = data.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", data, start)
    path.write_bytes(data[:start] + data[start + 12 + length :])


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rgb, "MAX_PIXELS", 80)
    Image.new("RGB", (9, 9)).save(tmp_path / "large.png")
    message = r"large\.png: has 9x9 pixels, more than 8e-05 million; crop or remove it"
    with pytest.raises(UserError, match=message):
        decode(tmp_path / "large.png")


@pytest.mark.parametrize("damage", [truncated, text, empty, gif, pages, palette_missing])
def test_unreadable_pictures_are_named(tmp_path, damage):
    path = tmp_path / "a.png"
    picture_of(noise(3, height=40, width=40)).save(path)
    damage(path)
    with pytest.raises(UserError, match=r"a\.png"):
        decode(path)


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    image = picture_of(noise(3))
    for mode in ("1", "L", "LA", "P", "RGBA"):
        image.convert(mode).save(tmp_path / f"{mode}.png")
        expected = np.asarray(image.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(decode(tmp_path / f"{mode}.png"), expected)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_for_photos(tmp_path, extension, orientation):
    path = tmp_path / f"photo{extension}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture_of(noise(3)).save(path, exif=exif)
    decoded = decode(path)
    np.testing.assert_array_equal(decoded, photos.read(path).pixels)
    assert header_size(path) == decoded.shape[:2] == ((14, 9) if orientation > 4 else (9, 14))
    assert decoded.flags.c_contiguous
    # What other readers, which ignore orientation, would decode otherwise.
    plain = orientation == 1 and extension in (".png", ".jpg")
    assert is_plain(path, decoded.dtype) == plain


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_depth_is_kept(tmp_path, dtype, channels):
    pixels = noise(channels, "u2" if dtype == "u2" else "u1")
    if dtype[0] == "f":
        pixels = (pixels / 255).astype(dtype)
    for extension in (".png", ".tif") if dtype[0] == "u" else (".tif",):
        path = tmp_path / f"photo{extension}"
        photos.write(path, photos.Photo(pixels))
        decoded = decode(path)
        assert decoded.dtype == header_dtype(path) == np.dtype(dtype)
        expected = np.broadcast_to(pixels[..., :3], (9, 14, 3))
        np.testing.assert_array_equal(decoded, expected)


def test_opened_files_are_read_as_paths_are(tmp_path):
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, noise(3, "u2"), photometric="rgb")
    np.testing.assert_array_equal(decode(io.BytesIO(path.read_bytes()), "record 3"), decode(path))
    with pytest.raises(UserError, match="record 3: is not a PNG"):
        decode(io.BytesIO(b"nothing"), "record 3")


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError])
def test_a_defect_in_decoding_is_not_reported_as_damage(tmp_path, monkeypatch, error):
    def defect(*_):
        raise error("a defect")

    picture_of(noise(3)).save(tmp_path / "a.png")
    monkeypatch.setattr(rgb, "to_rgb", defect)
    with pytest.raises(error, match="a defect"):
        decode(tmp_path / "a.png")
