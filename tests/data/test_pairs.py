from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprnet_jax.data.pairs import Cached, PairFolder, list_pictures, natural_order
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError


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
