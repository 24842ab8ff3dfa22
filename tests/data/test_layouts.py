import runpy
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.data.opening import open_benchmark, open_folder, open_splits
from mprnet_jax.data.pairing import NoPairs
from mprnet_jax.data.pairs import PairFolder
from mprnet_jax.errors import UserError

mini = runpy.run_path(str(Path(__file__).parent / "miniatures.py"))
OWN, write_own = mini["OWN"], mini["write_own"]
NAMES = {
    ("gopro", "train"): ["GOPR0371_11_00-000001", "GOPR0372_05_00-000001"],
    ("gopro", "test"): ["GOPR0371_11_00-000001", "GOPR0372_04_00-000001"],
    ("realblurj", "train"): ["scene005-2", "scene015-2"],
    ("realblurr", "train"): ["scene005-2", "scene015-2"],
    ("realblurj", "test"): ["scene004-2", "scene014-2"],
    ("realblurr", "test"): ["scene004-2", "scene014-2"],
    ("bsd", "train"): ["000-00000001", "017-00000001"],
    ("sidd", "train"): [f"000{n}_001_S6_00100_00060_3200_L_000{n}_NOISY_SRGB_010" for n in (1, 2)],
    ("hide", "test"): ["2fromGOPR1", "10fromGOPR1"],
    ("rain100l", "test"): ["rain-001", "rain-002"],
    ("rain100h", "test"): ["rain-001", "rain-002"],
    ("test2800", "test"): [f"{n}_{version}" for n in (901, 902) for version in range(1, 15)],
    ("test1200", "test"): ["0", "1"],
}


def check(source, key, split):
    """A source holds the pairs of a miniature, pixel by pixel."""
    assert source.names == NAMES[key, split]
    for index, images in enumerate(mini["own_photos"](key, split)):
        example = source[index]
        assert source.size_of(index) == (40, 56)
        for role, image in zip(("degraded", "target"), images):
            # JPEG changes noise by 15 grey values; another part of the photo differs by 60.
            error = np.abs(np.int_(example[role]) - image).mean()
            assert error < (25 if key in ("test1200", "test2800") else 1e-9)


@pytest.mark.parametrize(("key", "split"), OWN)
@pytest.mark.parametrize("place", ["below", "deeper", "itself"])
def test_sets_are_read_as_their_authors_hand_them_out(tmp_path, key, split, place):
    folder = write_own(tmp_path, key, split)
    if place == "deeper":  # as some unpack archives
        folder = folder.rename(tmp_path / "again")
        (tmp_path / OWN[key, split][0]).mkdir()
        folder.rename(tmp_path / OWN[key, split][0] / "again")
    splits = open_splits(key, folder if place == "itself" else tmp_path)
    assert list(splits) == [split]
    check(splits[split], key, split)


def test_both_splits_come_from_one_folder(tmp_path):
    for key in ("gopro", "realblurj"):
        for split in ("train", "test"):
            write_own(tmp_path, key, split)
        splits = open_splits(key, tmp_path)
        assert {s: len(source) for s, source in splits.items()} == {"train": 2, "test": 2}
        for split, source in splits.items():
            check(source, key, split)
        assert open_benchmark(key, tmp_path).names == splits["test"].names


@pytest.mark.parametrize(
    ("key", "split", "inside"),
    [
        ("gopro", "train", "train"),
        ("bsd", "train", "train"),
        ("sidd", "train", ""),
        ("sidd", "train", "Data"),
        ("hide", "test", ""),
        ("rain100l", "test", ""),
        ("rain100h", "test", ""),
        ("test2800", "test", "testing"),
    ],
)
def test_training_takes_their_folders_too(tmp_path, key, split, inside):
    check(open_folder(write_own(tmp_path, key, split) / inside), key, split)


def test_training_takes_the_rain_pictures_side_by_side(tmp_path):
    degraded, target = mini["photos"](1, (40, 56))[0]
    for density in ("Heavy", "Light"):
        place = tmp_path / f"Rain_{density}/train2018new"
        mini["save"](place / "7.png", np.concatenate([degraded, target], axis=1))
    source = PairFolder(tmp_path)
    assert source.names == ["Rain_Heavy-train2018new-7", "Rain_Light-train2018new-7"]
    assert source.size_of(0) == (40, 56)
    np.testing.assert_array_equal(source[1]["degraded"], degraded)
    np.testing.assert_array_equal(source[1]["target"], target)
    mini["save"](place / "7.png", target[:, :1])
    with pytest.raises(UserError, match=r"7\.png: must show two pictures"):
        source[1]


def test_splits_are_not_mixed(tmp_path):
    """What holds other splits or sets is not taken for the one that was asked for."""
    folder = write_own(tmp_path, "gopro", "train")
    with pytest.raises(NoPairs, match="nor GOPRO_Large as its authors hand it out"):
        open_benchmark("gopro", tmp_path)
    with pytest.raises(NoPairs, match=r"docs/datasets\.md"):
        PairFolder(folder)
    write_own(tmp_path, "rain100l", "test")
    with pytest.raises(NoPairs):
        open_benchmark("rain100h", tmp_path)
    folder = write_own(tmp_path, "test2800", "test")
    (folder / "testing").rename(folder / "training")
    with pytest.raises(NoPairs):
        open_benchmark("test2800", tmp_path)


def test_who_has_the_archive_only_is_told_what_to_do(tmp_path):
    (tmp_path / "HIDE_dataset.zip").write_bytes(b"")
    with pytest.raises(NoPairs, match=r"unpack HIDE_dataset\.zip, or prepare it with python -m"):
        open_benchmark("hide", tmp_path)


def test_one_name_in_several_folders_gets_the_folder(tmp_path):
    write_own(tmp_path / "BSD", "bsd", "train")
    (tmp_path / "BSD/BSD_3ms24ms").rename(tmp_path / "BSD/BSD_1ms8ms")
    write_own(tmp_path / "BSD", "bsd", "train")
    names = open_splits("bsd", tmp_path)["train"].names
    assert names == [
        f"BSD-BSD_{times}-train-{name}"
        for times in ("1ms8ms", "3ms24ms")
        for name in NAMES["bsd", "train"]
    ]


@pytest.mark.parametrize(("key", "split"), [pair for pair in OWN if pair[0] != "test1200"])
def test_a_clean_picture_that_is_missing_is_named(tmp_path, key, split):
    folder = write_own(tmp_path, key, split)
    lost = folder / OWN[key, split][1][-1][1]
    lost.unlink()
    degraded = OWN[key, split][1][-1][0]
    named = lost.name if key.startswith("realblur") else Path(degraded).stem.removesuffix("_14")
    with pytest.raises(UserError, match=named) as error:
        open_splits(key, tmp_path)
    assert not isinstance(error.value, NoPairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"../a.png b.png", "line 1: must be the paths"),
        (b"a.png /b.png", "line 1: must be the paths"),
        (b"\na.png", "line 2: must be the paths"),
        (b"a.png b.png\n", r"names 1 pairs, of which 2 pictures are not there \(.*a.png"),
        (b"", "names 0 pairs"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path, text, message):
    write_own(tmp_path, "realblurj", "test")
    (tmp_path / "RealBlur/RealBlur_J_test_list.txt").write_bytes(text)
    with pytest.raises(UserError, match=rf"RealBlur_J_test_list\.txt.*{message}"):
        open_benchmark("realblurj", tmp_path)


def test_two_pictures_of_one_stem_and_folders_that_cannot_be_listed(tmp_path, monkeypatch):
    folder = write_own(tmp_path, "rain100l", "test")
    (folder / "rainy/rain-001.jpg").write_bytes((folder / "rainy/rain-001.png").read_bytes())
    (folder / "rainy/._rain-002.jpg").write_bytes(b"hidden")
    with pytest.raises(UserError, match=r"rain-001\.png|rain-001\.jpg"):
        open_benchmark("rain100l", tmp_path)
    (folder / "rainy/rain-001.jpg").unlink()
    check(open_benchmark("rain100l", tmp_path), "rain100l", "test")

    def refuse(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match="cannot be listed"):
        PairFolder(folder)
