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
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.encoding import encode
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.photos import Photo

pictures = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
noise, picture_of = pictures["noise"], pictures["picture_of"]


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff_of(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


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
        "pages.tif": saved(frames[0], format="TIFF", save_all=True, append_images=frames[1:]),
        "frames.png": saved(frames[0], format="PNG", save_all=True, append_images=frames[1:]),
        "frames.avif": saved(frames[0], format="AVIF", save_all=True, append_images=frames[1:]),
        "frames.webp": saved(frames[0], format="WEBP", save_all=True, append_images=frames[1:]),
        "gif.png": saved(frames[0], format="GIF"),
        "deep.tif": tiff_of(np.zeros((8, 8), np.uint32)),
        "signed.tif": tiff_of(np.zeros((8, 8), np.int16)),
        "white.tif": tiff_of(np.full((8, 8), 255, np.float32)),
        "not_a_number.tif": tiff_of(np.full((8, 8), np.nan, np.float32)),
        "lzma.tif": tiff_of(noise(3, "u2"), photometric="rgb", compression="lzma"),
        "big.tif": tiff_of(noise(3), photometric="rgb", bigtiff=True, byteorder=">"),
        "lab.tif": saved(Image.new("LAB", (8, 8)), format="TIFF"),
        "photo.jxl": b"\xff\x0a",
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    }


MESSAGES = {
    "truncated.png": "cannot be read",
    "truncated_16_bits.png": "cannot be read",
    "truncated.jpg": "cannot be read",
    "text.png": "is not a PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC picture",
    "empty.png": "is not a PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC picture",
    "bomb.png": "60000x60000 pixels|3600000000 pixels",  # ours, or Pillow's where it is earlier
    "pages.tif": "holds 2 pages",
    "frames.png": r"is animated \(2 frames\); save it as a video",
    "frames.avif": r"is animated \(2 frames\)",
    "frames.webp": r"is animated \(2 frames\)",
    "gif.png": "is not a PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC picture",
    "deep.tif": "has integers of 32 bits; save it in RGB with 8 or 16 bits or as floats",
    "signed.tif": "has signed integers of 16 bits",
    "white.tif": r"its floats reach from 255 to 255; scale them to \[0, 1\]",
    "not_a_number.tif": "its floats reach from nan to nan",
    "lzma.tif": "is compressed in a way that few programs know for 16 bits",
    "big.tif": "big-endian BigTIFF file of 8 bits",
    "lab.tif": "has colour mode LAB; convert it to RGB",
    "photo.jxl": "is a JPEG XL picture, which is not read; save it as PNG or TIFF",
    "photo.heic": "HEIC pictures need pillow-heif|is not a PNG",
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
        photos.sizes_of(path, max_pixels=100)
    photos.write(tmp_path / "pages.tif", [Photo(noise(3))] * 3)
    with pytest.raises(UserError, match=r"has 378 pixels on 3 pages, more than 0\.0003 million"):
        photos.read_pages(tmp_path / "pages.tif", max_pixels=300)


@pytest.fixture(scope="module")
def samples(make_exif, profile) -> list[tuple[str, bytes]]:
    """Whole files of all formats, small."""
    files = []
    for channels, dtype in ((1, "u1"), (3, "u1"), (4, "u1"), (3, "u2")):
        for name in sorted(set(photos.FORMATS.values())):
            if name != "HEIF" and not (name == "JPEG" and channels == 4):
                metadata = Metadata(make_exif().tobytes(), profile, (300, 300), b"<x/>", b"\x1c")
                files.append((name, encode([(noise(channels, dtype), metadata)], name, 90)[0]))
    for pixels in (noise(3).astype(np.float32) / 255, noise(3).astype(np.float16) / 255):
        files.append(("TIFF", encode([(pixels, Metadata())] * 2, "TIFF", 90)[0]))
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
        sizes = photos.sizes_of(path)
        pages = photos.read_pages(path)
    except UserError:
        return
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert [page.pixels.shape[:2] for page in pages] == sizes
    assert all(page.pixels.dtype.kind in "uf" for page in pages)


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError])
@pytest.mark.parametrize(
    "function",
    ["meta.orientation_of", "upright", "to_array", "meta.upright_exif", "meta.parse_exif"],
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
    path.write_bytes(bad_files()["pages.tif"])
    with Image.open(path) as picture:
        picture.seek(1)
        position = picture.tag_v2._offset
    data = bytearray(path.read_bytes())
    data[position : position + 2] = bytes(2)  # the number of entries
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"photo\.tif: cannot be read"):
        photos.sizes_of(path)


def directory_of_overlapping_values() -> bytes:
    """TIFF data of 1 MB, with 5,000 entries that each claim all of them: 5 GB."""
    entry = struct.pack("<HHII", 0x9286, 7, 10**6, 8)
    data = struct.pack("<2sHIH", b"II", 42, 8, 5000) + entry * 5000
    return data.ljust(10**6 + 8, b"\0")


@pytest.mark.parametrize("kind", ["exif.png", "exif.webp", "texts.png", "photo.tif"])
def test_small_files_do_not_fill_the_memory(tmp_path: Path, kind: str):
    """In the space of some megabytes a file can claim gigabytes of metadata."""
    path = tmp_path / kind
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "photo.tif":
        whole = tiff_of(noise(3), photometric="rgb")
        (start,) = struct.unpack_from("<I", whole, 4)
        (count,) = struct.unpack_from("<H", whole, start)
        entries = whole[start + 2 : start + 2 + 12 * count]
        data = bytearray(whole) + bytes(10**6)
        struct.pack_into("<I", data, 4, len(data))
        extra = b"".join(struct.pack("<HHII", 50_000 + i, 7, 10**6, 8) for i in range(5000))
        data += struct.pack("<H", count + 5000) + entries + extra + bytes(4)
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged directory"):
            photos.read(path)
    else:
        whole = encode([(noise(3), Metadata())], "PNG", 9)[0]
        bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(15 * 2**20)))
        if kind == "texts.png":
            path.write_bytes(whole[:33] + 60 * bomb + whole[33:])  # 900 MB
        elif kind == "exif.png":
            exif = chunk(b"eXIf", directory_of_overlapping_values())
            path.write_bytes(whole[:33] + exif + whole[33:])
        else:
            picture_of(noise(3)).save(path, exif=b"Exif\0\0" + directory_of_overlapping_values())
        assert photos.read(path).pixels.shape == (9, 14, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
