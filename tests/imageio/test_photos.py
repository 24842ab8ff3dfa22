"""Image files of every kind in and out."""

import runpy
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo

LOSSLESS = [(".png", c, t) for c in (1, 2, 3, 4) for t in ("u1", "u2")]
LOSSLESS += [(".tif", c, t) for c in (1, 3, 4) for t in ("u1", "u2")]
LOSSLESS += [(".bmp", 1, "u1"), (".bmp", 3, "u1"), (".bmp", 4, "u1")]
LOSSLESS += [(".webp", 3, "u1"), (".webp", 4, "u1")]


pictures = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
noise, picture_of = pictures["noise"], pictures["picture_of"]


@pytest.mark.parametrize(("extension", "channels", "dtype"), LOSSLESS)
def test_what_is_written_is_read(tmp_path: Path, extension: str, channels: int, dtype: str):
    path, pixels = tmp_path / f"photo{extension}", noise(channels, dtype)
    photos.write(path, Photo(pixels), quality=100)
    assert photos.size_of(path) == (9, 14)
    read = photos.read(path).pixels
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_programs_read_our_16_bits_and_we_read_theirs(tmp_path, extension, channels):
    ours, theirs = tmp_path / f"ours{extension}", tmp_path / f"theirs{extension}"
    pixels = noise(channels, "u2")
    photos.write(ours, Photo(pixels))
    swapped = pixels[..., [[0], [], [2, 1, 0], [2, 1, 0, 3]][channels - 1]]
    if extension == ".tif":
        np.testing.assert_array_equal(np.atleast_3d(tifffile.imread(ours)), pixels)
        kind = "minisblack" if channels == 1 else "rgb"
        tifffile.imwrite(theirs, pixels.squeeze(), photometric=kind, byteorder=">")
    else:
        decoded = cv2.imread(str(ours), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(np.atleast_3d(decoded), swapped)
        cv2.imwrite(str(theirs), swapped)
    np.testing.assert_array_equal(photos.read(theirs).pixels, pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_and_webp_of_high_quality_come_close(tmp_path: Path, channels: int):
    rows = np.linspace(0, 255, 64)[:, None, None]
    pixels = np.broadcast_to(rows, (64, 64, channels)).astype(np.uint8)
    photos.write(tmp_path / "photo.jpg", Photo(pixels))
    photos.write(tmp_path / "photo.webp", Photo(pixels))
    for name, kept in (("photo.jpg", channels), ("photo.webp", 3)):  # WebP has no grey
        read = photos.read(tmp_path / name).pixels
        assert read.shape == (64, 64, kept)
        assert np.abs(read.astype(int) - pixels).max() <= 6  # what quality 95 costs a smooth ramp


def test_quality_decides_the_size_of_the_file(tmp_path: Path):
    pixels = noise(3, height=64, width=64)
    for quality in (10, 90):
        photos.write(tmp_path / f"{quality}.jpg", Photo(pixels), quality)
    assert (tmp_path / "10.jpg").stat().st_size < (tmp_path / "90.jpg").stat().st_size / 2


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_and_channels_become_what_the_format_holds(tmp_path, extension, channels):
    path, pixels = tmp_path / f"photo{extension}", noise(channels, "u2")
    if extension == ".jpg" and channels in (2, 4):
        with pytest.raises(UserError, match=r"photo\.jpg: cannot be written \(JPEG has no alpha"):
            photos.write(path, Photo(pixels))
        assert not path.exists()
        return
    photos.write(path, Photo(pixels), quality=100)
    read = photos.read(path).pixels
    kept = {2, 4} if channels in (2, 4) else {1, 3}
    assert read.shape[2] in kept
    if extension in (".png", ".tif"):
        assert read.dtype == np.uint16
    elif extension != ".jpg":
        assert np.abs(read[..., 0] - pixels[..., 0] / 257).max() <= 0.5
        assert np.abs(read[..., -1] - pixels[..., -1] / 257).max() <= 0.5


def test_palettes_and_transparent_colours(tmp_path: Path):
    path, pixels = tmp_path / "photo.png", noise(3)
    palette = picture_of(pixels).quantize(16)
    palette.save(path)
    np.testing.assert_array_equal(photos.read(path).pixels, np.asarray(palette.convert("RGB")))
    palette.save(path, transparency=3)
    transparent = np.asarray(palette) == 3
    np.testing.assert_array_equal(photos.read(path).pixels[..., 3] == 0, transparent)
    for channels in (1, 3):
        pixels = noise(channels)
        key = tuple(int(v) for v in pixels[4, 5])
        picture_of(pixels).save(path, transparency=key if channels == 3 else key[0])
        expected = (pixels == pixels[4, 5]).all(axis=2)
        read = photos.read(path).pixels
        np.testing.assert_array_equal(read[..., :-1], pixels)
        np.testing.assert_array_equal(read[..., -1] == 0, expected)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits(tmp_path: Path, bits: int):
    samples = np.arange(8) % 2 * (2**bits - 1)  # black and white in turn
    row = np.packbits((samples[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)).tobytes()
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0),
        b"tRNS": struct.pack(">H", 2**bits - 1),
        b"IDAT": zlib.compress(b"\0" + row),
        b"IEND": b"",
    }
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in chunks.items()))
    read = photos.read(path).pixels
    np.testing.assert_array_equal(read[0, :, 0], [0, 255] * 4)
    np.testing.assert_array_equal(read[0, :, 1], [255, 0] * 4)


@pytest.mark.parametrize(
    "options", [{"planarconfig": "separate"}, {"extrasamples": ["assocalpha"]}], ids=str
)
def test_rare_kinds_of_16_bit_tiff_are_refused(tmp_path: Path, options: dict):
    pixels = noise(4 if "extrasamples" in options else 3, "u2")
    if "planarconfig" in options:
        pixels = pixels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "photo.tif", pixels, photometric="rgb", **options)
    with pytest.raises(UserError, match="in an unsupported 16-bit layout"):
        photos.read(tmp_path / "photo.tif")


def test_the_size_of_a_png_is_known_without_decoding_it(tmp_path: Path, monkeypatch):
    picture_of(noise(3)).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image.Image, "load", None)
    assert photos.size_of(tmp_path / "photo.png") == noise(3).shape[:2]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_16_bit_png(tmp_path: Path, channels: int):
    path, pixels = tmp_path / "photo.png", noise(channels, "u2")
    photos.write(path, Photo(pixels))
    data, header = path.read_bytes(), 33  # the signature and the header chunk
    transparent = chunk(b"tRNS", pixels[4, 5].astype(">u2").tobytes())
    path.write_bytes(data[:header] + transparent + data[header:])
    read = photos.read(path).pixels
    np.testing.assert_array_equal(read[..., :-1], pixels)
    assert np.argwhere(read[..., -1] == 0).tolist() == [[4, 5]]


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, extension: str, orientation: int):
    path = tmp_path / f"photo{extension}"
    stored = picture_of(noise(3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(path, exif=exif, **({"lossless": True} if extension == ".webp" else {}))
    with Image.open(path) as saved:
        expected = np.asarray(ImageOps.exif_transpose(saved))
    photo = photos.read(path)
    assert photos.size_of(path) == expected.shape[:2]
    np.testing.assert_array_equal(photo.pixels, expected)
    photos.write(path, photo)
    assert photos.size_of(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bits_is_applied_once(tmp_path: Path, orientation: int):
    pixels = noise(3, "u2")
    tag = (274, 3, 1, orientation, True)
    path, shallow = tmp_path / "deep.tif", tmp_path / "shallow.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=[tag])
    eight_bits = (pixels >> 8).astype(np.uint8)
    tifffile.imwrite(shallow, eight_bits, photometric="rgb", extratags=[tag])
    np.testing.assert_array_equal(photos.read(path).pixels >> 8, photos.read(shallow).pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
@pytest.mark.parametrize("orientation", range(5, 9))
def test_orientation_of_a_plain_tiff_file(tmp_path: Path, mode: str, orientation: int):
    """Given its path, Pillow would map it into memory, with rows as long as columns are."""
    path, twin = tmp_path / "scan.tif", tmp_path / "scan.png"
    picture = picture_of(noise(3, height=200, width=320)).convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(path, exif=exif)
    picture.save(twin, exif=exif)
    assert photos.size_of(path) == (320, 200)
    np.testing.assert_array_equal(photos.read(path).pixels, photos.read(twin).pixels)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    path = tmp_path / "photo.webp"
    with pytest.raises(UserError, match=r"photo\.webp: cannot be written"):
        photos.write(path, Photo(np.zeros((1, 17000, 3), np.uint8)))  # WebP ends at 16383
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError])
def test_a_defect_in_encoding_is_not_reported_as_a_full_disk(tmp_path, monkeypatch, error):
    def defect(*_):
        raise error("a defect")

    monkeypatch.setattr("mprnet_jax.imageio.encoding.encode_16bit_png", defect)
    with pytest.raises(error, match="a defect"):
        photos.write(tmp_path / "photo.png", Photo(noise(3, "u2")))
    assert not list(tmp_path.iterdir())


def test_a_file_name_without_a_known_extension_is_an_error(tmp_path):
    photo = photos.Photo(np.zeros((2, 2, 3), np.uint8))
    for call in (photos.write, photos.check_format_supports):
        with pytest.raises(UserError, match=r"a\.gif: must end in \.png, "):
            call(tmp_path / "a.gif", photo)
