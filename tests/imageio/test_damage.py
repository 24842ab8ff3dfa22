"""Damaged image files are refused, and defects are not taken for damage."""

import io
import resource
import runpy
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.encoding import encode
from mprnet_jax.imageio.photos import Photo

pictures = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
noise, picture_of = pictures["noise"], pictures["picture_of"]


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bad_files() -> dict[str, bytes]:
    def saved(picture: Image.Image, **options) -> bytes:
        file = io.BytesIO()
        picture.save(file, **options)
        return file.getvalue()

    whole = saved(picture_of(noise(3, height=64, width=64)), format="PNG")
    deep = cv2.imencode(".png", noise(3, "u2", 64, 64))[1].tobytes()
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = whole[:8] + chunk(b"IHDR", header) + whole[33:]
    frames = [picture_of(noise(3)), Image.new("RGB", (14, 9))]
    return {
        "truncated.png": whole[: len(whole) // 2],
        "truncated_16_bits.png": deep[: len(deep) // 2],
        "truncated.jpg": saved(frames[0], format="JPEG")[:-100],
        "text.png": b"This is no picture.",
        "empty.png": b"",
        "bomb.png": bomb,
        "frames.tif": saved(frames[0], format="TIFF", save_all=True, append_images=frames[1:]),
        "frames.webp": saved(frames[0], format="WEBP", save_all=True, append_images=frames[1:]),
        "gif.png": saved(frames[0], format="GIF"),
        "cmyk.jpg": saved(Image.new("CMYK", (8, 8)), format="JPEG"),
        "floats.tif": saved(Image.new("F", (8, 8)), format="TIFF"),
    }


MESSAGES = {
    "truncated.png": "cannot be read",
    "truncated_16_bits.png": "cannot be read",
    "truncated.jpg": "cannot be read",
    "text.png": "is not a PNG, JPEG, WebP, TIFF or BMP picture",
    "empty.png": "is not a PNG, JPEG, WebP, TIFF or BMP picture",
    "bomb.png": "60000x60000 pixels|3600000000 pixels",  # ours, or Pillow's where it is earlier
    "frames.tif": "holds 2 pictures",
    "frames.webp": "holds 2 pictures",
    "gif.png": "is not a PNG, JPEG, WebP, TIFF or BMP picture",
    "cmyk.jpg": "colour mode CMYK",
    "floats.tif": "colour mode F",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(bad_files()[name])
    with pytest.raises(UserError, match=MESSAGES[name]) as raised:
        photos.read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path):
    path = tmp_path / "photo.png"
    photos.write(path, Photo(noise(3)))
    with pytest.raises(UserError, match=r"has 14x9 pixels, more than 0\.0001 million"):
        photos.read(path, max_pixels=100)
    with pytest.raises(UserError, match="more than"):
        photos.size_of(path, max_pixels=100)


@pytest.fixture(scope="module")
def samples(make_exif, profile) -> list[tuple[str, bytes]]:
    """Whole files of all formats, small."""
    files = []
    for channels, dtype in ((1, "u1"), (3, "u1"), (4, "u1"), (3, "u2")):
        for name in sorted(set(photos.FORMATS.values())):
            if not (name == "JPEG" and channels == 4):
                pixels, exif = noise(channels, dtype), make_exif().tobytes()
                files.append((name, encode(pixels, name, exif, profile, 90)))
    return files


# Pillow warns of what is odd in a file and reads the rest.
@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL", "ignore:.*:RuntimeWarning:PIL")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(tmp_path: Path, samples, data: st.DataObject):
    """Never anything but pixels of the size that the header gives, or our error, within 1 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, file = data.draw(st.sampled_from(samples))
    mutated = bytearray(file)
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutated"
    path.write_bytes(mutated[: data.draw(st.integers(0, len(file)))] or mutated)
    try:
        size = photos.size_of(path)
        photo = photos.read(path)
    except UserError:
        return
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert photo.pixels.shape[:2] == size
    assert photo.pixels.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError])
@pytest.mark.parametrize(
    "function", ["orientation_of", "bits_and_channels", "upright", "exif_bytes", "may_have_exif"]
)
def test_a_defect_in_decoding_is_not_reported_as_damage(tmp_path, monkeypatch, function, error):
    def defect(*_):
        raise error("a defect")

    photos.write(tmp_path / "photo.png", Photo(noise(3)))
    monkeypatch.setattr(f"mprnet_jax.imageio.decoding.{function}", defect)
    with pytest.raises(error, match="a defect"):
        photos.read(tmp_path / "photo.png")


def test_a_tiff_file_whose_second_directory_is_damaged_is_refused(tmp_path):
    """Pillow raises TypeError for a directory without dimensions."""
    path = tmp_path / "photo.tif"
    path.write_bytes(bad_files()["frames.tif"])
    with Image.open(path) as picture:
        picture.seek(1)
        position = picture.tag_v2._offset
    data = bytearray(path.read_bytes())
    data[position : position + 2] = bytes(2)  # the number of entries
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"photo\.tif: cannot be read"):
        photos.size_of(path)
