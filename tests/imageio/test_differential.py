"""Pictures of all kinds through both readers and restoration, beside an independent decoder.

tifffile decodes TIFF, FFmpeg (PyAV) JPEG, WebP, AVIF and BMP; of PNG the encoder's own pixels are
known, and of CMYK the colours. None shares a decoder with the package. Some kinds in the suite, 206
with --exhaustive.
"""

import itertools
import runpy
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import tifffile
from flax import nnx
from PIL import ExifTags, Image, ImageOps

from mprnet_jax import ModelConfig, Restorer
from mprnet_jax.imageio import photos, rgb
from mprnet_jax.restoration.folders import Job
from mprnet_jax.restoration.pipeline import Pipeline

pictures = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
noise, picture_of = pictures["noise"], pictures["picture_of"]
inks = runpy.run_path(str(Path(__file__).parent / "inks.py"))


class Identity(nnx.Module):
    """Stands in for the network and changes nothing."""

    def __init__(self):
        self.config = ModelConfig(width=4, unet_growth=2, orsnet_growth=3, cabs_per_orb=1)

    def __call__(self, images, stages, *_):
        return [images] * stages


class Case(NamedTuple):
    """A file with what must come out of it."""

    path: Path
    pixels: np.ndarray  # upright, [H, W, C], as an independent decoder or the encoder has them
    tolerance: int = 0


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels upright as Pillow does, which has its own table."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    channels = []
    for channel in np.moveaxis(pixels, 2, 0):
        picture = Image.fromarray(channel.astype(np.float32))
        picture.info["exif"] = exif.tobytes()
        channels.append(np.asarray(ImageOps.exif_transpose(picture)))
    return np.stack(channels, axis=2).astype(pixels.dtype)


def png_cases(folder: Path, profile: bytes) -> Iterator[Case]:
    for bits, channels, orientation in itertools.product((8, 16), (1, 3, 4), range(1, 9)):
        pixels = noise(channels, f"u{bits // 8}")
        path = folder / f"{bits}_{channels}_{orientation}.png"
        swapped = pixels[..., [[0], [], [2, 1, 0], [2, 1, 0, 3]][channels - 1]]
        data = cv2.imencode(".png", swapped)[1].tobytes()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        chunks = [(b"eXIf", exif.tobytes()[6:]), (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))]
        if channels == 3:
            chunks.append((b"iCCP", b"p\0\0" + zlib.compress(profile)))
        body = b"".join(
            struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c))
            for n, c in chunks
        )
        path.write_bytes(data[:33] + body + data[33:])
        yield Case(path, turn(pixels, orientation))
    for bits in (1, 2, 4, 8):  # of palettes
        path = folder / f"palette_{bits}.png"
        picture = picture_of(noise(3)).quantize(2**bits)
        picture.save(path, bits=bits, dpi=(300, 300))
        indices, palette = np.asarray(picture), np.array(picture.getpalette()).reshape(-1, 3)
        yield Case(path, palette[indices].astype(np.uint8))


def write_tiff(path: Path, stored: np.ndarray, orientation: int, **options) -> None:
    tifffile.imwrite(
        path,
        stored,
        extratags=[(274, 3, 1, orientation, True)],
        resolution=(300, 300),
        resolutionunit="INCH",
        **options,
    )


def tiff_cases(folder: Path, profile: bytes) -> Iterator[Case]:
    layouts = [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": False},
        {"planarconfig": "separate"},
        {"rowsperstrip": 3},
        {"compression": "zlib", "predictor": "deep"},
        {"planarconfig": "separate", "tile": (16, 16)},
        {"tile": (32, 16), "byteorder": ">", "compression": "zlib"},
    ]
    kinds = itertools.product(("u1", "u2", "f2", "f4"), (1, 3, 4), layouts)
    for number, (dtype, channels, layout) in enumerate(kinds):
        if channels == 1 and "planarconfig" in layout:
            continue
        if layout.get("predictor") == "deep":  # tifffile has none for floats
            layout = layout | {"predictor": dtype[0] == "u"}
        whole = noise(channels, "u2", 20, 30)
        pixels = (whole >> 8).astype("u1") if dtype == "u1" else whole
        pixels = (whole / 65535).astype(dtype) if dtype[0] == "f" else pixels
        orientation = number % 8 + 1
        stored = pixels.transpose(2, 0, 1) if "planarconfig" in layout else pixels
        path = folder / f"{number}.tif"
        write_tiff(
            path,
            stored.squeeze() if channels == 1 else stored,
            orientation,
            photometric="minisblack" if channels == 1 else "rgb",
            iccprofile=profile if channels == 3 else None,
            **layout,
        )
        decoded = tifffile.imread(path)
        decoded = decoded.transpose(1, 2, 0) if "planarconfig" in layout else decoded
        yield Case(path, turn(np.atleast_3d(decoded), orientation))


def other_cases(folder: Path, profile: bytes) -> Iterator[Case]:
    """JPEG, WebP, AVIF and BMP, decoded by FFmpeg beside Pillow."""
    av = pytest.importorskip("av", reason="FFmpeg decodes these beside Pillow")
    smooth = cv2.resize(noise(3, height=6, width=8), (48, 32), interpolation=cv2.INTER_CUBIC)
    demuxers = {".jpg": "jpeg_pipe", ".webp": "webp_pipe", ".avif": "mov", ".bmp": "bmp_pipe"}
    lossless = {".jpg": {"subsampling": 0}, ".webp": {"lossless": True}}
    lossless[".avif"] = {"quality": 100, "subsampling": "4:4:4"}
    for extension, orientation, grey in itertools.product(demuxers, range(1, 9), (False, True)):
        if (extension == ".bmp" and orientation > 1) or (extension in (".webp", ".avif") and grey):
            continue
        path = folder / f"{orientation}_{grey}{extension}"
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        picture = Image.fromarray(smooth[..., 1] if grey else smooth)
        options = {"exif": exif, "icc_profile": None if grey else profile, "dpi": (300, 300)}
        options |= lossless.get(extension, {})
        picture.save(path, **options)
        with av.open(str(path), format=demuxers[extension]) as file:
            decoded = next(file.decode(video=0)).to_ndarray(format="gray" if grey else "rgb24")
        # FFmpeg converts YCbCr and palettes of grey with less precision.
        tolerance = {".jpg": 4, ".avif": 1, ".bmp": 1}.get(extension, 0)
        yield Case(path, turn(np.atleast_3d(decoded), orientation), tolerance)


def ink_cases(folder: Path, profile: bytes) -> Iterator[Case]:
    """CMYK, with layouts of TIFF."""
    stored, inks_profile = noise(4) // 2, inks["make_profile"]()  # none darker than sRGB's black
    pixels = inks["to_srgb"](stored).round().astype(np.uint8)
    layouts = [{}, {"rowsperstrip": 3}, {"byteorder": ">"}, {"tile": (16, 16)}]
    for orientation, layout in enumerate(layouts * 2, start=1):
        path = folder / f"inks_{orientation}.tif"
        options = {"photometric": "separated", "iccprofile": inks_profile, **layout}
        write_tiff(path, stored, orientation, **options)
        yield Case(path, turn(pixels, orientation), 1)


def test_pictures_come_through_as_others_decode_them(tmp_path: Path, exhaustive, profile):
    cases = [
        case
        for make in (png_cases, tiff_cases, other_cases, ink_cases)
        for case in list(make(tmp_path, profile))[:: 1 if exhaustive else 7]
    ]
    assert len(cases) >= (206 if exhaustive else 26), len(cases)
    jobs = [Job(case.path, case.path.with_name(f"written_{case.path.name}")) for case in cases]
    assert Pipeline(Restorer(Identity()), quality=100).run(jobs)[:3] == (len(cases), 0, 0)
    for case, job in zip(cases, jobs):
        photo = photos.read(case.path)
        name = case.path.name
        # The photos' reader.
        assert photo.pixels.dtype == case.pixels.dtype, name
        difference = np.abs(photo.pixels.astype(float) - case.pixels)
        assert difference.max() <= case.tolerance, name
        assert photos.sizes_of(case.path) == [case.pixels.shape[:2]], name
        # The pairs' reader, which drops alpha and repeats grey.
        expected = np.broadcast_to(photo.pixels[..., :3], (*photo.pixels.shape[:2], 3))
        np.testing.assert_array_equal(rgb.decode(case.path), expected, err_msg=name)
        # Restored by a network that changes nothing.
        again = photos.read(job.target)
        close = 4 if case.path.suffix in (".jpg", ".avif") else 0.0  # of 255: not lossless
        if photo.pixels.dtype.kind == "f":
            close = 1e-7  # grey is the mean of three equal channels, rounded to float32
        difference = np.abs(again.pixels.astype(float) - photo.pixels)
        assert difference.max() <= close, name
        assert again.metadata.icc_profile == photo.metadata.icc_profile, name
        if case.path.suffix not in (".webp", ".avif"):
            resolution = photo.metadata.resolution
            np.testing.assert_allclose(resolution, (300, 300), rtol=1e-4, err_msg=name)
        assert again.metadata.resolution == pytest.approx(photo.metadata.resolution), name
        if case.path.suffix == ".tif":
            theirs = np.atleast_3d(tifffile.imread(job.target))
            np.testing.assert_array_equal(theirs, again.pixels, err_msg=name)
