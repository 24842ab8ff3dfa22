import hashlib

import numpy as np
import pytest
from PIL import Image

from mprnet_jax.data import corpus
from mprnet_jax.errors import UserError
from mprnet_jax.imageio.rgb import decode


@pytest.fixture
def packages(tmp_path, rng=np.random.default_rng(0)):  # noqa: B008
    """A folder with two unpacked photos, and their list."""
    folder = tmp_path / "packages"
    photos = []
    for name, split, factor in (("Lake", "train", 2), ("Hill", "held_out", 3)):
        path = folder / f"usr/share/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (31, 44, 3), np.uint8)).save(path)
        pixels = corpus.shrink(decode(path), factor)
        photos.append(
            corpus.Photo(
                name=name,
                split=split,
                package="lakes-and-hills",
                path=f"usr/share/{name}.png",
                shrink=factor,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
                licence="CC0-1.0",
                author="A. Author",
            )
        )
    return folder, photos


def test_shrinking_averages_squares():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    squares = image[:6, :8].reshape(3, 2, 4, 2, 3).mean((1, 3))
    # One level: halves may be rounded either way.
    np.testing.assert_allclose(corpus.shrink(image, 2), squares, atol=0.51)


def test_photos_are_written_by_split_beside_their_list(packages, tmp_path):
    folder, photos = packages
    counts = corpus.write_corpus(photos, folder, tmp_path / "corpus")
    assert counts == {"train": 1, "held_out": 1}
    lake = decode(tmp_path / "corpus/train/Lake.png")
    assert lake.shape == (15, 22, 3)
    assert hashlib.sha256(lake.tobytes()).hexdigest() == photos[0].pixels_sha256
    assert (tmp_path / "corpus/corpus.csv").read_bytes() == corpus.LIST.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        corpus.write_corpus(photos, folder, tmp_path / "corpus")


def test_a_changed_and_a_missing_picture_are_named_and_nothing_is_left(packages, tmp_path):
    folder, photos = packages
    Image.fromarray(np.zeros((31, 44, 3), np.uint8)).save(folder / photos[0].path)
    (folder / photos[1].path).unlink()
    with pytest.raises(UserError) as raised:
        corpus.write_corpus(photos, folder, tmp_path / "corpus")
    assert "2 of 2 photos" in str(raised.value)
    assert "Lake.png: is another picture than in the lakes-and-hills" in str(raised.value)
    assert "Hill.png of lakes-and-hills cannot be read" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


def test_the_list_is_complete_and_no_picture_is_in_two_splits():
    photos = corpus.read_list()
    assert len({photo.sha256 for photo in photos}) == len({p.name for p in photos}) == len(photos)
    held_out = [photo for photo in photos if photo.split == "held_out"]
    assert len(held_out) >= 10
    assert len({photo.package for photo in held_out}) >= 3
    assert {photo.split for photo in photos} == {"train", "validation", "held_out"}
    assert all(photo.licence and photo.author for photo in photos)


def test_photos_of_scikit_image_are_those_of_the_list(tmp_path):
    installed = [photo for photo in corpus.read_list() if photo.package == corpus.INSTALLED]
    assert len(installed) >= 3
    for photo in installed:
        assert corpus.open_photo(photo, tmp_path).dtype == np.uint8  # the hashes are checked
