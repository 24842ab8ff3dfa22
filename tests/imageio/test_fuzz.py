"""Mutated pictures of all kinds: read rightly or refused in our words, and written where asked.

Thousands with --exhaustive, by hand; `test_damage` has a sample of plainer ones in the suite.
"""

import io
import os
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, PngImagePlugin

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos, rgb
from mprnet_jax.imageio.encoding import encode
from mprnet_jax.imageio.metadata import Metadata

pictures = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
noise, picture_of = pictures["noise"], pictures["picture_of"]


def saved(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()


def tiff_of(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def samples(make_exif, profile: bytes) -> list[tuple[str, bytes]]:
    """Extensions and whole files."""
    exif = make_exif().tobytes()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/' tiff:Orientation='8'/>"
    text = (("Title", "a"), ("Kitchen", "日本"))
    colours = ((b"cICP", bytes([9, 16, 0, 1])), (b"gAMA", bytes(4)))
    rich = Metadata(exif, profile, (300, 150), xmp, b"\x1c\x02\x78\0\x01a", text, colours)
    files = []
    for extension in (".png", ".jpg", ".webp", ".tif", ".avif", ".bmp"):
        for channels, dtype in ((1, "u1"), (3, "u1"), (4, "u1"), (3, "u2")):
            if extension != ".jpg" or channels != 4:
                page = (noise(channels, dtype), rich)
                files.append((extension, encode([page], photos.FORMATS[extension], 90)[0]))
    floats = noise(3).astype(np.float32) / 255
    files.append((".tif", encode([(floats, rich), (noise(3), rich)], "TIFF", 90)[0]))
    for pixels in (noise(3), noise(3, "u2"), floats.astype(np.float16), floats):
        planes = pixels.transpose(2, 0, 1).copy()
        files.append((".tif", tiff_of(planes, photometric="rgb", planarconfig="separate")))
        files.append((".tif", tiff_of(pixels, photometric="rgb", bigtiff=True)))
        files.append((".tif", tiff_of(pixels, photometric="rgb", tile=(16, 16), byteorder=">")))
    pair = tiff_of(noise(2, "u2"), photometric="minisblack", planarconfig="contig")
    files.append((".tif", pair))
    palette = picture_of(noise(3)).quantize(16)
    files.append((".png", saved(palette, format="PNG", transparency=3)))
    for kind in ("JPEG", "TIFF"):
        inks = Image.fromarray(noise(4), "CMYK")
        files.append((".jpg", saved(inks, format=kind, icc_profile=profile)))
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif)}\n{exif.hex()}\n", zip=True)
    info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    files.append((".png", saved(picture_of(noise(3)), format="PNG", pnginfo=info)))
    frames = [picture_of(noise(3)), Image.new("RGB", (14, 9))]
    files.append((".jpg", saved(frames[0], format="MPO", save_all=True, append_images=frames[1:])))
    for kind in ("PNG", "WEBP", "AVIF"):
        animated = saved(frames[0], format=kind, save_all=True, append_images=frames[1:])
        files.append((f".{kind.lower()}", animated))
    return files


def mutate(file: bytes, random: np.random.Generator) -> bytes:
    """Changes, removes or repeats bytes; most changes near the beginning, where headers are."""
    data = bytearray(file)
    for _ in range(random.integers(1, 9)):
        end = min(len(data), 200) if random.random() < 0.6 else len(data)
        position = int(random.integers(max(end, 1)))
        kind = random.random()
        if kind < 0.7 and data:
            data[position] = random.choice([0, 1, 127, 128, 255, int(random.integers(256))])
        elif kind < 0.8:
            data[position : position + 4] = random.bytes(4)
        elif kind < 0.9:
            data[position:position] = data[position : position + int(random.integers(1, 40))]
        else:
            del data[position : position + int(random.integers(1, 40))]
    return bytes(data[: random.integers(len(data) + 1)] if random.random() < 0.15 else data)


def refusal(function) -> str:
    """Calls a function; returns in what words it refuses, "" if it does not."""
    try:
        function()
    except UserError as error:
        return str(error)
    return ""


def round_trip(path: Path, target: Path) -> None:
    """Reads a picture, writes it in the same format, and reads it again."""
    sizes = photos.sizes_of(path, 10**6)
    for _ in range(2):
        pages = photos.read_pages(path, 10**6)
        assert [page.pixels.shape[:2] for page in pages] == sizes
        assert all(page.pixels.dtype in ("u1", "u2", "f2", "f4") for page in pages)
        photos.write(target, pages)
        path = target


def test_mutated_pictures(tmp_path: Path, exhaustive, make_exif, profile):
    random = np.random.default_rng(int(os.environ.get("FUZZ_SEED", "0")))
    files = samples(make_exif, profile)
    count = int(os.environ.get("FUZZ", "20000")) if exhaustive else 300
    read = 0
    folder = tmp_path / "in"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is odd in a file
        for number in range(count):
            extension, file = files[number % len(files)]
            path, target = folder / f"a{extension}", tmp_path / "out" / f"a{extension}"
            path.write_bytes(mutate(file, random))
            messages = [refusal(lambda p=path: rgb.decode(p))]
            messages.append(refusal(lambda p=path, t=target: round_trip(p, t)))
            read += not messages[1]
            for message in filter(None, messages):
                assert message.startswith((f"{path}: ", f"{target}: ")), message
                assert "\n" not in message
            target.unlink(missing_ok=True)
            path.unlink()
            assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert read > count / 20  # not all are refused
    print(f"{count} mutated pictures, {read} of them read")


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_absurd_orientations_count_as_none(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.avif"):
        Image.new("RGB", (14, 9)).save(tmp_path / name, exif=exif.tobytes())
        assert photos.read(tmp_path / name).pixels.shape[:2] == (9, 14)
