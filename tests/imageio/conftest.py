"""Fixtures of the tests of image files."""

import pytest
from PIL import ExifTags, Image, ImageCms


@pytest.fixture(scope="session")
def make_exif():
    """Makes EXIF data with nested directories and an orientation that rotates the picture."""

    def make() -> Image.Exif:
        exif = Image.Exif()
        exif[ExifTags.Base.Artist] = "A. Photographer"
        exif[ExifTags.Base.Orientation] = 6
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 800
        exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] = 12.5
        return exif

    return make


@pytest.fixture(scope="session")
def profile() -> bytes:
    """A colour profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
