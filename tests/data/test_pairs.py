import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mprnet_jax.data.pairing import list_pictures, natural_order
from mprnet_jax.data.pairs import Cached, PairFolder, dtype_of
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos


def picture(seed, size=(12, 10)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def folder(tmp_path):
    for i in (1, 2, 10):
        write(tmp_path / f"input/{i}.png", picture(i))
        write(tmp_path / f"target/{i}.png", picture(100 + i))
    return tmp_path


def test_pairs_come_by_stem_in_natural_order(folder):
    (folder / "target/2.png").rename(folder / "target/2.PNG")
    pairs = PairFolder(folder)
    assert pairs.names == ["1", "2", "10"]
    assert len(pairs) == 3
    np.testing.assert_array_equal(pairs[2]["degraded"], picture(10))
    np.testing.assert_array_equal(pairs[1]["target"], picture(102))


def test_groundtruth_stands_for_target(folder):
    (folder / "target").rename(folder / "groundtruth")
    np.testing.assert_array_equal(PairFolder(folder)[0]["target"], picture(101))


def test_natural_order():
    names = ["b2", "a10", "a9", "a\N{SUPERSCRIPT TWO}", "a", ".a"]
    ordered = ["a", "a\N{SUPERSCRIPT TWO}", "a9", "a10", "b2"]
    assert natural_order(map(Path, names)) == list(map(Path, ordered))


def test_what_macs_leave_beside_pictures_is_none(folder):
    (folder / "input/._1.png").write_bytes(b"no picture")
    assert PairFolder(folder).names == ["1", "2", "10"]


def break_nothing_there(folder):
    (folder / "input").rename(folder / "elsewhere")


def break_no_target(folder):
    (folder / "target/2.png").unlink()


def break_no_input(folder):
    (folder / "input/10.png").unlink()


def break_same_stem(folder):
    write(folder / "input/2.jpg", picture(2))


def break_empty(folder):
    for path in folder.glob("*/*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nothing_there, "must hold the folders input and target"),
        (break_no_target, r"input: 1 of 3 pictures have no partner in .*target \(2.png\)"),
        (break_no_input, r"target: 1 of 3 pictures have no partner in .*input \(10.png\)"),
        (break_same_stem, r"2.png: 2.jpg has the same stem|2.jpg.* same stem"),
        (break_empty, "holds no .png, .jpg, .*.heif pictures"),
    ],
)
def test_broken_folders_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        PairFolder(folder)


def test_sizes_of_a_pair_must_agree(folder):
    write(folder / "target/2.png", picture(2, size=(10, 12)))
    with pytest.raises(UserError, match=r"input/2.png: is 10x12, but its target .* is 12x10"):
        PairFolder(folder)[1]


class Counting:
    def __init__(self):
        self.reads = []

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.reads.append(index)
        return {"target": np.full((10, 10, 3), index, np.uint8)}


def test_cache_leaves_the_machine_what_it_should(monkeypatch):
    source = Counting()
    free = iter([1000, 700, 400, 400])  # 300 bytes each; the third would leave less than 200
    monkeypatch.setattr(memory, "available_host_bytes", lambda: next(free))
    cached = Cached(source, min_available_bytes=200)
    for _ in range(2):
        for index in range(3):
            assert cached[index]["target"][0, 0, 0] == index
    assert source.reads == [0, 1, 2, 2]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(UserError, match="cannot be listed"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("extension", [".bmp", ".tif", ".webp", ".avif", ".JFIF"])
def test_all_formats_of_photos_make_pairs(tmp_path, extension):
    options = {"format": "JPEG"} if extension == ".JFIF" else {}
    for role in ("input", "target"):
        (tmp_path / role).mkdir()
        Image.fromarray(picture(0)).save(tmp_path / role / f"1{extension}", **options)
    pairs = PairFolder(tmp_path)
    assert pairs.size_of(0) == pairs[0]["degraded"].shape[:2] == (12, 10)
    np.testing.assert_array_equal(pairs[0]["degraded"], pairs[0]["target"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pairs_stand_upright(tmp_path, orientation):
    """A camera's JPEG file, and the same picture as an editor saved it."""
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "input").mkdir()
    source = tmp_path / "input/1.png"
    Image.fromarray(picture(0)).save(source, exif=exif)
    with Image.open(source) as stored:
        write(tmp_path / "target/1.png", np.asarray(ImageOps.exif_transpose(stored)))
    pairs = PairFolder(tmp_path)
    np.testing.assert_array_equal(pairs[0]["degraded"], pairs[0]["target"])
    assert pairs.size_of(0) == pairs[0]["target"].shape[:2]


def test_a_set_has_the_type_of_its_deepest_picture(tmp_path):
    shallow, deep = picture(0), picture(1).astype(np.uint16) * 256 + 7
    write(tmp_path / "input/1.png", shallow)
    write(tmp_path / "target/1.png", shallow)
    write(tmp_path / "input/2.jpg", shallow)
    photos.write(tmp_path / "target/2.png", photos.Photo(deep))
    pairs = PairFolder(tmp_path)
    assert dtype_of(pairs) == dtype_of(Cached(pairs, 0)) == np.uint16
    np.testing.assert_array_equal(pairs[0]["degraded"], shallow * np.uint16(257))
    np.testing.assert_array_equal(pairs[1]["target"], deep)
    floats = (shallow / 255).astype(np.float16)
    photos.write(tmp_path / "target/1.tif", photos.Photo(floats))
    (tmp_path / "target/1.png").unlink()
    pairs = PairFolder(tmp_path)
    assert pairs[0]["degraded"].dtype == pairs[1]["target"].dtype == np.float32
    # float16 has 11 bits.
    np.testing.assert_allclose(pairs[0]["degraded"], pairs[0]["target"], atol=2**-11)
    assert dtype_of(Counting()) == np.uint8


def test_names_in_either_form_of_unicode_are_one(tmp_path):
    for role, form in (("input", "NFD"), ("target", "NFC")):
        write(tmp_path / role / f"{unicodedata.normalize(form, 'é 1')}.png", picture(0))
    assert PairFolder(tmp_path).names == [unicodedata.normalize("NFC", "é 1")]


@pytest.mark.parametrize(
    ("degraded", "clean"),
    [("rain-001", "norain-001"), ("rain_7", "norain_7"), ("rain10", "10"), ("3", "norain-3")],
)
def test_names_of_the_rain_sets_authors(tmp_path, degraded, clean):
    write(tmp_path / f"input/{degraded}.png", picture(0))
    write(tmp_path / f"target/{clean}.png", picture(1))
    pairs = PairFolder(tmp_path)
    assert pairs.names == [degraded]
    np.testing.assert_array_equal(pairs[0]["target"], picture(1))


def test_prefixes_that_tell_pictures_apart_are_kept(tmp_path):
    for name in ("rain-1", "1"):
        write(tmp_path / f"input/{name}.png", picture(0))
        write(tmp_path / f"target/{name}.png", picture(1))
    assert PairFolder(tmp_path).names == ["1", "rain-1"]
    (tmp_path / "target/1.png").rename(tmp_path / "target/norain-1.png")
    with pytest.raises(UserError, match="have no partner"):
        PairFolder(tmp_path)


def test_gopros_own_layout(tmp_path):
    for scene in ("GOPR0372_07_00", "GOPR0371_11_00"):
        for folder in ("blur", "sharp", "blur_gamma"):
            for i in (1, 2):
                write(tmp_path / scene / folder / f"00000{i}.png", picture(len(folder) + i))
    pairs = PairFolder(tmp_path)
    assert pairs.names == [
        f"{scene}-00000{i}" for scene in ("GOPR0371_11_00", "GOPR0372_07_00") for i in (1, 2)
    ]
    np.testing.assert_array_equal(pairs[3]["degraded"], picture(6))
    np.testing.assert_array_equal(pairs[3]["target"], picture(7))
    assert pairs.size_of(3) == (12, 10)
    assert len(PairFolder(tmp_path / "GOPR0371_11_00")) == 2


def test_files_that_are_no_pictures_are_logged(folder, caplog):
    (folder / "input/readme.txt").write_text("no picture")
    (folder / "input/4.gif").write_bytes(b"GIF89a")
    with caplog.at_level("WARNING"):
        assert len(PairFolder(folder)) == 3
    assert "leaves out 2 files that are no pictures: 4.gif, readme.txt" in caplog.text
