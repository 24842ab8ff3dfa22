"""What files say of photos is kept in the form that the new format has, or named as left out."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, PngImagePlugin

from mprnet_jax.imageio import photos
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.photos import Photo

XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a tiff:Orientation=\"6\"/></x:xmpmeta>"
UPRIGHT = XMP.replace(b'"6"', b'"1"')
IPTC = b"\x1c\x02\x78\0\x07Caption"  # record 2, data set 120
PQ = bytes([9, 16, 0, 1])  # BT.2020 and the transfer function of HDR10
EXTENSIONS = [".png", ".jpg", ".webp", ".tif", ".avif"]


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(*chunks: tuple[bytes, bytes], size=(14, 9)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (90, 20, 200)).save(file, "PNG")
    data = file.getvalue()
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


def through(tmp_path: Path, source: Path, extension: str) -> tuple[Path, list[str]]:
    """Reads and writes a photo; returns the new file, and what was left out."""
    target = tmp_path / f"out{extension}"
    return target, photos.write(target, photos.read(source), quality=90)


@pytest.fixture
def rich(profile) -> Metadata:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Photographer"
    text = (("Title", "A title"), ("Comment", "naïve"), ("Kitchen", "日本"))
    return Metadata(exif.tobytes(), profile, (300, 150), UPRIGHT, IPTC, text, ((b"cICP", PQ),))


LEFT_OUT = {
    ".png": [],
    ".jpg": ["text", "meaning of colours (cICP)"],
    ".webp": ["text", "meaning of colours (cICP)", "IPTC"],
    ".tif": ["text", "meaning of colours (cICP)"],
    ".avif": ["text", "IPTC"],
    ".bmp": ["EXIF data", "colour profile", "XMP", "IPTC", "text", "meaning of colours"],
}


@pytest.mark.parametrize("extension", LEFT_OUT)
def test_what_a_format_holds_comes_back_and_the_rest_is_named(tmp_path, rich, extension):
    path = tmp_path / f"photo{extension}"
    left_out = photos.write(path, Photo(np.zeros((9, 14, 3), np.uint8), rich))
    assert left_out == LEFT_OUT[extension]
    read = photos.read(path).metadata
    assert read.left_out == ()
    np.testing.assert_allclose(read.resolution, (300, 150), rtol=1e-4)  # BMP counts per metre
    if extension == ".bmp":
        return
    assert read.icc_profile == rich.icc_profile
    assert read.xmp == UPRIGHT
    exif = Image.Exif()
    exif.load(read.exif)
    assert exif[ExifTags.Base.Artist] == "A. Photographer"
    assert read.iptc == (b"" if "IPTC" in left_out else IPTC)
    assert dict(read.colours) == ({b"cICP": PQ} if extension in (".png", ".avif") else {})
    if extension == ".png":
        assert read.text == rich.text
    else:  # in EXIF's tag with that meaning
        assert exif[ExifTags.Base.ImageDescription] == "A title"
    if extension == ".jpg":
        assert read.text == (("Comment", "naïve"),)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("target", EXTENSIONS)
def test_resolution_survives_any_change_of_format(tmp_path, extension, target):
    source = tmp_path / f"in{extension}"
    photos.write(source, Photo(np.zeros((9, 14, 1), np.uint8), Metadata(resolution=(300, 150))))
    written, _ = through(tmp_path, source, target)
    np.testing.assert_allclose(photos.read(written).metadata.resolution, (300, 150), rtol=1e-4)


def test_resolution_turns_with_the_photo(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("a.jpg", "a.tif", "a.png"):
        Image.new("RGB", (14, 9)).save(tmp_path / name, dpi=(300, 150), exif=exif)
        x, y = photos.read(tmp_path / name).metadata.resolution
        assert (round(x), round(y)) == (150, 300)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"cHRM", struct.pack(">8I", *range(8))),
        (b"sRGB", b"\1"),
        (b"cICP", PQ),
        (b"mDCV", bytes(24)),
        (b"cLLI", bytes(8)),
    ],
)
def test_what_decides_the_meaning_of_colours_in_png(tmp_path, name, data):
    source = tmp_path / "in.png"
    source.write_bytes(png_with((name, data)))
    written, left_out = through(tmp_path, source, ".png")
    assert chunk(name, data) in written.read_bytes()
    assert not left_out
    _, left_out = through(tmp_path, source, ".tif")
    # What says nothing is sRGB, so the chunk sRGB is not missed.
    assert left_out == ([] if name == b"sRGB" else [f"meaning of colours ({name.decode()})"])


def test_16_bits_keep_them_too(tmp_path):
    metadata = Metadata(colours=((b"cICP", PQ),), text=(("Title", "a"),), resolution=(72, 72))
    photos.write(tmp_path / "in.png", Photo(np.zeros((9, 14, 3), np.uint16), metadata))
    written, left_out = through(tmp_path, tmp_path / "in.png", ".png")
    assert photos.read(written).metadata._replace(resolution=None) == metadata._replace(
        resolution=None
    )
    assert not left_out


def test_unknown_parts_of_files_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(png_with((b"bKGD", bytes(6)), (b"prVt", b"private")))
    assert through(tmp_path, tmp_path / "a.png", ".png")[1] == ["chunk bKGD", "chunk prVt"]
    file = io.BytesIO()
    Image.new("RGB", (14, 9)).save(file, "JPEG")
    data = file.getvalue()
    segment = b"\xff\xeb" + struct.pack(">H", 12) + b"JP\0\0\1jumb\0"
    (tmp_path / "a.jpg").write_bytes(data[:20] + segment + data[20:])
    assert through(tmp_path, tmp_path / "a.jpg", ".jpg")[1] == ["APP11 JP"]
    exif = Image.Exif()
    exif[50_000] = "private"
    Image.new("RGB", (14, 9)).save(tmp_path / "a.tif", exif=exif)
    assert through(tmp_path, tmp_path / "a.tif", ".tif")[1] == ["tag 50000"]
    first, second = Image.new("RGB", (14, 9)), Image.new("RGB", (7, 5))
    first.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[second])
    left_out = through(tmp_path, tmp_path / "b.jpg", ".jpg")[1]
    assert left_out == ["further pictures in the file, such as previews"]


def test_metadata_too_large_for_a_format_cost_no_pixels(tmp_path):
    pixels = np.full((9, 14, 3), 200, np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    large = b"<x>" + bytes(70_000)
    metadata = Metadata(exif=exif.tobytes(), xmp=large, iptc=large, icc_profile=bytes(2**24))
    left_out = photos.write(tmp_path / "photo.jpg", Photo(pixels, metadata))
    assert left_out == [
        "EXIF data (too large for JPEG)",
        "XMP (too large for JPEG)",
        "IPTC (too large for JPEG)",
        "colour profile (too large for JPEG)",
    ]
    np.testing.assert_allclose(photos.read(tmp_path / "photo.jpg").pixels, pixels, atol=1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["text", "profile", "exif"])
def test_metadata_too_large_to_be_read_cost_no_pixels(tmp_path, kind):
    """Pillow refuses a PNG file whose texts are larger than its limits."""
    bomb = zlib.compress(bytes(70 * 2**20))
    name, data = {
        "text": (b"zTXt", b"Comment\0\0" + bomb),
        "profile": (b"iCCP", b"profile\0\0" + bomb),
        "exif": (b"eXIf", b"II*\0\xff\xff\xff\x7f"),
    }[kind]
    path = tmp_path / "photo.png"
    path.write_bytes(png_with((name, data)))
    read = photos.read(path)
    assert read.pixels.shape == (9, 14, 3)
    assert read.metadata.left_out == (() if kind == "exif" else (f"chunk {name.decode()}",))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_cost_no_pixels(tmp_path):
    for extension in EXTENSIONS:
        damaged = Metadata(exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff", icc_profile=b"no profile")
        photos.write(tmp_path / f"a{extension}", Photo(np.zeros((9, 14, 3), np.uint8), damaged))
        assert photos.read(tmp_path / f"a{extension}").pixels.shape == (9, 14, 3)


def test_raw_profiles_of_imagemagick_are_understood(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Photographer"
    info = PngImagePlugin.PngInfo()
    resources = b"8BIM\4\4\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    for kind, data in (("exif", exif.tobytes()), ("iptc", resources), ("xmp", XMP)):
        info.add_text(
            f"Raw profile type {kind}", f"\n{kind}\n{len(data):8d}\n{data.hex()}\n", zip=1
        )
    Image.new("RGB", (14, 9)).save(tmp_path / "a.png", pnginfo=info)
    read = photos.read(tmp_path / "a.png")
    assert b"A. Photographer" in read.metadata.exif
    assert read.metadata.iptc == IPTC
    assert read.metadata.xmp == UPRIGHT
    assert read.pixels.shape == (14, 9, 3)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_orientation_in_xmp_alone_is_applied_once(tmp_path, extension, dtype):
    source = tmp_path / f"in{extension}"
    photos.write(source, Photo(np.zeros((9, 14, 3), dtype), Metadata(xmp=XMP)))
    assert photos.sizes_of(source) == [(14, 9)]
    written, _ = through(tmp_path, source, extension)
    read = photos.read(written)
    assert read.pixels.shape == (14, 9, 3)
    assert read.metadata.xmp == UPRIGHT


def test_deep_avif_is_named(tmp_path):
    """An AVIF file of 10 bits; the header says so, and 8 of them are read."""
    path = tmp_path / "photo.avif"
    Image.new("RGB", (14, 9)).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"av1C") + 6] |= 0x40
    from mprnet_jax.imageio.plugins import left_out_of

    assert left_out_of("AVIF", bytes(data[:4096]), {}) == ["10 bits a channel (8 are read)"]
    assert photos.read(path).metadata.left_out == ()


def test_heic_with_its_plugin(tmp_path):
    pytest.importorskip("pillow_heif", reason="is in the extra heic")
    path = tmp_path / "photo.heic"
    pixels = np.broadcast_to(np.linspace(0, 255, 64)[:, None], (64, 48)).astype(np.uint8)
    metadata = Metadata(resolution=(300, 300), xmp=UPRIGHT, colours=((b"cICP", PQ),))
    rgb = np.repeat(pixels[..., None], 3, axis=2)
    assert photos.write(path, Photo(rgb, metadata)) == []
    read = photos.read(path)
    assert np.abs(read.pixels.astype(int) - rgb).max() <= 6  # what quality 95 costs a smooth ramp
    assert dict(read.metadata.colours) == {b"cICP": PQ}
    assert read.metadata.resolution == (300, 300)


def test_descriptions_of_another_layout_are_not_copied(tmp_path):
    path, pixels = tmp_path / "photo.tif", np.zeros((9, 14, 3), np.uint8)

    def description() -> str:
        exif = Image.Exif()
        exif.load(photos.read(path).metadata.exif or b"")
        return exif.get(ExifTags.Base.ImageDescription, "")

    tifffile.imwrite(path, pixels, photometric="rgb")
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].description == '{"shape": [9, 14, 3]}'
    assert description() == ""
    tifffile.imwrite(path, pixels[..., 0], imagej=True)
    assert description() == ""
    assert "ImageJ's description" in photos.read(path).metadata.left_out
    tifffile.imwrite(path, pixels, photometric="rgb", description="A cat", metadata=None)
    assert description() == "A cat"
