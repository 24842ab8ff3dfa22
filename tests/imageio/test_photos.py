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
from mprnet_jax.imageio.metadata import Metadata
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
    assert photos.sizes_of(path) == [(9, 14)]
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


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4"])
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (3, {"planarconfig": "separate"}),
        (4, {"planarconfig": "separate", "rowsperstrip": 2}),
        (3, {"planarconfig": "separate", "tile": (16, 16)}),
        (3, {"tile": (16, 16), "compression": "zlib"}),
        (2, {"extrasamples": ["unassalpha"], "planarconfig": "contig"}),
        (4, {"extrasamples": ["unspecified"]}),
        (4, {"bigtiff": True}),
        (3, {"byteorder": ">"}),
    ],
    ids=str,
)
def test_rare_kinds_of_tiff(tmp_path: Path, dtype: str, channels: int, options: dict):
    """8 bits go through one decoder, all others through another: both take the same kinds."""
    rng = np.random.default_rng(0)
    pixels = rng.random((20, 30, channels)).astype(dtype)
    if dtype[0] == "u":
        pixels = noise(channels, dtype, 20, 30)
    stored = pixels.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else pixels
    photometric = "minisblack" if channels == 2 else "rgb"
    tifffile.imwrite(tmp_path / "photo.tif", stored, photometric=photometric, **options)
    read = photos.read(tmp_path / "photo.tif")
    if options.get("extrasamples") == ["unspecified"]:
        pixels = pixels[..., :3]
        assert "channels beside colours and alpha" in read.metadata.left_out
    assert read.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(read.pixels, pixels)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_colours_that_are_multiplied_by_alpha(tmp_path: Path, dtype: str):
    white = 1 if dtype == "f4" else np.iinfo(dtype).max
    alpha = np.linspace(0, white, 30).astype(dtype)[:, None]
    colour = np.full((30, 1, 3), 0.4 * white).astype(dtype)
    stored = np.concatenate([colour * (alpha / white)[..., None], alpha[..., None]], axis=2)
    path = tmp_path / "photo.tif"
    options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(path, np.ascontiguousarray(stored.astype(dtype)), **options)
    read = photos.read(path).pixels
    np.testing.assert_array_equal(read[..., 3], alpha)
    # What rounding leaves of dark colours, divided by alpha: exact for floats to 7 digits.
    error = np.abs(read[15:, :, :3].astype(float) - colour[15:]) / white
    assert error.max() < {"u1": 0.01, "u2": 1e-4, "f4": 1e-6}[dtype]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_white_may_be_zero(tmp_path: Path, dtype: str):
    white = 1 if dtype == "f4" else np.iinfo(dtype).max
    pixels = np.linspace(0, white, 126).astype(dtype).reshape(9, 14)
    tifffile.imwrite(tmp_path / "scan.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(photos.read(tmp_path / "scan.tif").pixels[..., 0], white - pixels)


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_floats_in_and_out(tmp_path: Path, dtype: str, channels: int):
    pixels = np.random.default_rng(0).random((9, 14, channels)).astype(dtype)
    ours, theirs = tmp_path / "ours.tif", tmp_path / "theirs.tif"
    assert photos.write(ours, Photo(pixels)) == []
    np.testing.assert_array_equal(np.atleast_3d(tifffile.imread(ours)), pixels)
    kind = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(theirs, pixels.squeeze(), photometric=kind)
    for path in (ours, theirs):
        np.testing.assert_array_equal(photos.read(path).pixels, pixels)
    left_out = photos.write(tmp_path / "photo.png", Photo(pixels))
    assert left_out == [f"floats of {8 * pixels.itemsize} bits (rounded to 16)"]
    rounded = photos.read(tmp_path / "photo.png").pixels
    assert np.abs(rounded / 65535 - pixels.astype(np.float64)).max() <= 0.5 / 65535 + 1e-7


def test_all_pages_of_a_tiff_file(tmp_path: Path, make_exif):
    pages = [Photo(noise(3)), Photo(noise(1, "u2", 5, 6)), Photo(noise(4, "u1", 3, 2))]
    exif = make_exif()
    del exif[ExifTags.Base.Orientation]
    pages[1] = pages[1]._replace(metadata=Metadata(exif.tobytes()))
    path = tmp_path / "pages.tif"
    photos.write(path, pages)
    assert photos.sizes_of(path) == [(9, 14), (5, 6), (3, 2)]
    read = photos.read_pages(path)
    with tifffile.TiffFile(path) as theirs:
        for page, other, expected in zip(read, theirs.pages, pages, strict=True):
            np.testing.assert_array_equal(page.pixels, expected.pixels)
            np.testing.assert_array_equal(np.atleast_3d(other.asarray()), expected.pixels)
    assert b"A. Photographer" in read[1].metadata.exif
    with pytest.raises(UserError, match=r"PNG holds one of its 3 pages; choose tiff"):
        photos.write(tmp_path / "pages.png", pages)


def test_previews_among_pages_are_left_out_and_named(tmp_path: Path):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(noise(3, height=64, width=64), photometric="rgb")
        file.write(noise(3, height=32, width=32), photometric="rgb", subfiletype=1)
    (page,) = photos.read_pages(path)
    assert page.pixels.shape == (64, 64, 3)
    assert "previews" in page.metadata.left_out


def test_inks_become_rgb_through_their_profile(tmp_path: Path):
    inks = runpy.run_path(str(Path(__file__).parent / "inks.py"))
    picture = noise(4) // 2  # without those that are darker than sRGB's black
    path = tmp_path / "inks.tif"
    Image.fromarray(picture, "CMYK").save(path, icc_profile=inks["make_profile"]())
    read = photos.read(path)
    # Rounded to 8 bits, after a table of 16 bits.
    np.testing.assert_allclose(read.pixels, inks["to_srgb"](picture), atol=0.6)
    assert "CMYK (it is RGB now)" in read.metadata.left_out
    assert read.metadata.icc_profile is None


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_inks_with_a_profile_that_does_not_fit(tmp_path: Path, extension: str, profile):
    picture = Image.new("CMYK", (8, 8), (200, 10, 10, 20))
    path = tmp_path / f"inks{extension}"
    for options in ({}, {"icc_profile": profile}, {"icc_profile": b"damaged"}):
        picture.save(path, **options)
        read = photos.read(path)
        expected = np.asarray(picture.convert("RGB")).astype(int)
        # JPEG rounds: 3 of 255.
        np.testing.assert_allclose(read.pixels.astype(int), expected, atol=3)
        assert "CMYK (it is RGB now)" in read.metadata.left_out
        assert read.metadata.icc_profile is None


def test_the_size_of_a_png_is_known_without_decoding_it(tmp_path: Path, monkeypatch):
    picture_of(noise(3)).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image.Image, "load", None)
    assert photos.sizes_of(tmp_path / "photo.png") == [noise(3).shape[:2]]


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
    assert photos.sizes_of(path) == [expected.shape[:2]]
    np.testing.assert_array_equal(photo.pixels, expected)
    photos.write(path, photo)
    assert photos.sizes_of(path) == [expected.shape[:2]]


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
    assert photos.sizes_of(path) == [(320, 200)]
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

    monkeypatch.setattr("mprnet_jax.imageio.png.encode_16_bits", defect)
    with pytest.raises(error, match="a defect"):
        photos.write(tmp_path / "photo.png", Photo(noise(3, "u2")))
    assert not list(tmp_path.iterdir())


def test_a_file_name_without_a_known_extension_is_an_error(tmp_path):
    photo = photos.Photo(np.zeros((2, 2, 3), np.uint8))
    for call in (photos.write, lambda path, photo: photos.check_format_supports(path, [photo])):
        with pytest.raises(UserError, match=r"a\.gif: must end in \.png, "):
            call(tmp_path / "a.gif", photo)
