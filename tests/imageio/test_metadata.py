"""What image files say of a photo besides its pixels: EXIF data and colour profiles."""

from pathlib import Path

import pytest
from PIL import ExifTags, Image

from mprnet_jax.imageio import photos
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.photos import Photo


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_exif_and_colour_profile_are_kept(
    tmp_path: Path, photo, make_exif, profile, extension: str, dtype: str
):
    source, path = tmp_path / f"source{extension}", tmp_path / f"photo{extension}"
    Image.fromarray(photo(9, 14)).save(source, exif=make_exif().tobytes(), icc_profile=profile)
    read = photos.read(source)
    photos.write(path, Photo(read.pixels.astype(dtype), read.metadata))
    with Image.open(path) as written:
        exif = written.getexif()
        assert written.info["icc_profile"] == profile
        assert exif[ExifTags.Base.Artist] == "A. Photographer"
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 800
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] == 12.5
        assert written.size == (9, 14)  # turned by a quarter, and no longer to be turned


def test_metadata_survives_a_change_of_format(tmp_path: Path, photo, make_exif):
    source, path = tmp_path / "source.tif", tmp_path / "photo.jpg"
    Image.fromarray(photo(9, 14)).save(source, exif=make_exif().tobytes())
    photos.write(path, photos.read(source))
    with Image.open(path) as written:
        exif = written.getexif()
        assert exif[ExifTags.Base.Artist] == "A. Photographer"
        assert ExifTags.Base.StripOffsets not in exif


def test_exif_with_a_directory_of_interoperability_is_kept(tmp_path: Path, photo, make_exif):
    exif = make_exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R98"}
    for name, other in (("a.tif", "b.jpg"), ("c.jpg", "d.tif")):
        Image.fromarray(photo(9, 14)).save(tmp_path / name, exif=exif.tobytes())
        photos.write(tmp_path / other, photos.read(tmp_path / name))
        with Image.open(tmp_path / other) as written:
            kept = written.getexif()
            assert kept[ExifTags.Base.Artist] == "A. Photographer"
            inner = kept.get_ifd(ExifTags.IFD.Exif)
            assert inner[ExifTags.Base.ISOSpeedRatings] == 800
            assert not isinstance(inner.get(ExifTags.IFD.Interop), int)  # an offset elsewhere


def test_no_directory_is_added_to_exif(tmp_path: Path, photo):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Photographer"
    Image.fromarray(photo(9, 14)).save(tmp_path / "a.tif", exif=exif.tobytes())
    photos.write(tmp_path / "b.jpg", photos.read(tmp_path / "a.tif"))
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.getexif()[ExifTags.Base.Artist] == "A. Photographer"
        assert ExifTags.IFD.Exif not in written.getexif()


def test_exif_that_jpeg_cannot_hold_is_left_out(tmp_path: Path, photo, make_exif):
    exif = make_exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    photos.write(tmp_path / "photo.jpg", Photo(photo(9, 14), Metadata(exif.tobytes())))
    assert photos.read(tmp_path / "photo.jpg").pixels.shape == photo(9, 14).shape


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_does_not_keep_a_photo_from_being_read(tmp_path: Path, photo):
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo(9, 14)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert photos.read(path).metadata.exif == b""
