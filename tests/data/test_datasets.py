import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.data.matlab import write_dnd_submission
from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.errors import UserError

mini = runpy.run_path(str(Path(__file__).parent / "miniatures.py"))
PAIRED = [key for key in BENCHMARKS if key not in ("sidd", "dnd")]


@pytest.mark.parametrize("key", PAIRED)
def test_paired_sets_are_found_in_their_published_layout(tmp_path, key):
    mini["write_pairs"](tmp_path / BENCHMARKS[key].folders[0], count=11)
    source = open_benchmark(key, tmp_path)
    assert source.names == [str(n) for n in range(1, 12)]  # natural order: 2 before 10
    assert len(source) == 11
    degraded, target = mini["photos"](11, (40, 56))[9]
    np.testing.assert_array_equal(source[9]["degraded"], degraded)
    np.testing.assert_array_equal(source[9]["target"], target)


@pytest.mark.parametrize(("key", "write"), [("gopro", "pairs"), ("sidd", "sidd"), ("dnd", "dnd")])
def test_sizes_are_known_without_decoding(tmp_path, key, write):
    mini[f"write_{write}"](tmp_path / BENCHMARKS[key].folders[0])
    source = open_benchmark(key, tmp_path)
    for index in range(len(source)):
        assert source.size_of(index) == source[index]["degraded"].shape[:2]


def test_the_size_of_a_file_that_is_no_picture(tmp_path):
    mini["write_pairs"](tmp_path / "GoPro/test")
    (tmp_path / "GoPro/test/input/2.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"2.png: is not a PNG"):
        open_benchmark("gopro", tmp_path).size_of(1)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("rain100l", "Test/rain100L"),
        ("Rain100L", "Rain100L"),
        ("RealBlur_J", "RealBlur-J/test"),
        ("realblur-j", "realblur_j"),
        ("GoPro", "GOPRO/test"),
    ],
)
def test_case_dashes_and_underscores_do_not_matter(tmp_path, name, folder):
    mini["write_pairs"](tmp_path / folder, target="groundtruth")
    assert len(open_benchmark(name, tmp_path)) == 3


def test_sidd_blocks_come_in_order(tmp_path):
    mini["write_sidd"](tmp_path / "SIDD" / "test")
    source = open_benchmark("SIDD", tmp_path)
    assert source.names == ["01_01", "01_02", "01_03", "02_01", "02_02", "02_03"]
    assert len(source) == 6
    for index, (degraded, target) in enumerate(mini["photos"](6, (24, 24))):
        np.testing.assert_array_equal(source[index]["degraded"], degraded)
        np.testing.assert_array_equal(source[index]["target"], target)


def test_dnd_boxes_are_cut_out_of_transposed_photos(tmp_path):
    photos = mini["write_dnd"](tmp_path / "DND")
    source = open_benchmark("DND", tmp_path)
    assert source.names == [f"000{p}_0{b}" for p in (1, 2) for b in (1, 2, 3)]
    boxes = [np.s_[0:24, 0:32], np.s_[29:53, 32:64], np.s_[36:60, 40:72]]
    for index, example in enumerate(source[i] for i in range(6)):
        assert example.keys() == {"degraded"}
        assert example["degraded"].dtype == np.float32
        np.testing.assert_array_equal(example["degraded"], photos[index // 3][boxes[index % 3]])


def test_a_dnd_submission_is_what_its_server_reads(tmp_path):
    boxes = [np.full((4, 6, 3), value) for value in (0.25, 0.5)]
    write_dnd_submission(tmp_path / "0001.mat", boxes)
    file = scipy.io.loadmat(tmp_path / "0001.mat")
    assert file["Idenoised"].shape == (1, 2)
    assert file["Idenoised"].dtype == object
    assert file["Idenoised"][0, 1].shape == (4, 6, 3)
    assert (file["Idenoised"][0, 1] == 0.5).all()
    assert file["eval_version"][0] == "1.0"
    assert not file["israw"].item()
    assert [path.name for path in tmp_path.iterdir()] == ["0001.mat"]


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"'rain100'.*Rain100L.*RealBlur-J"):
        open_benchmark("rain100", tmp_path)


@pytest.mark.parametrize("key", BENCHMARKS)
def test_a_missing_folder_is_answered_with_layout_and_source(tmp_path, key):
    with pytest.raises(UserError) as error:
        open_benchmark(key, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(tmp_path), BENCHMARKS[key].folders[0], "https://"):
        assert part in message
    with pytest.raises(UserError, match="no folder"):
        open_benchmark(key, tmp_path / "nowhere")


def test_pictures_without_partner_are_listed(tmp_path):
    folder = tmp_path / "test" / "Rain100L"
    mini["write_pairs"](folder)
    (folder / "target" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png"):
        open_benchmark("Rain100L", tmp_path)


def test_a_pair_of_two_sizes_is_refused_when_read(tmp_path):
    folder = tmp_path / "HIDE" / "test"
    mini["write_pairs"](folder)
    Image.new("RGB", (8, 8)).save(folder / "target" / "2.png")
    source = open_benchmark("HIDE", tmp_path)
    source[0]
    with pytest.raises(UserError, match=r"input/2\.png.*56x40.*8x8"):
        source[1]


def damage_sidd_missing(folder):
    (folder / "ValidationGtBlocksSrgb.mat").unlink()


def damage_sidd_truncated(folder):
    path = folder / "ValidationGtBlocksSrgb.mat"
    path.write_bytes(path.read_bytes()[:-200])


def damage_sidd_name(folder):
    name = "ValidationGtBlocksSrgb"
    scipy.io.savemat(folder / f"{name}.mat", {"blocks": np.zeros((2, 3, 24, 24, 3), np.uint8)})


def damage_sidd_dtype(folder):
    name = "ValidationGtBlocksSrgb"
    scipy.io.savemat(folder / f"{name}.mat", {name: np.zeros((2, 3, 24, 24, 3))})


def damage_sidd_shape(folder):
    name = "ValidationGtBlocksSrgb"
    scipy.io.savemat(folder / f"{name}.mat", {name: np.zeros((2, 2, 24, 24, 3), np.uint8)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_sidd_missing, r"Gt.*\.mat: is missing"),
        (damage_sidd_truncated, r"Gt.*\.mat: cannot be read"),
        (damage_sidd_name, r"Gt.*\.mat: cannot be read"),
        (damage_sidd_dtype, r"Gt.*\.mat: holds float64"),
        (damage_sidd_shape, r"\(2, 3, 24, 24, 3\).*\(2, 2, 24, 24, 3\)"),
    ],
)
def test_damaged_sidd_files_are_named(tmp_path, damage, message):
    mini["write_sidd"](tmp_path / "SIDD")
    damage(tmp_path / "SIDD")
    with pytest.raises(UserError, match=message):
        open_benchmark("SIDD", tmp_path)


def test_damaged_dnd_files_are_named(tmp_path):
    mini["write_dnd"](tmp_path / "DND")
    photo = tmp_path / "DND" / "images_srgb" / "0002.mat"
    photo.write_bytes(photo.read_bytes()[:300])
    source = open_benchmark("DND", tmp_path)
    source[0]
    with pytest.raises(UserError, match=r"0002\.mat: cannot be read"):
        source[4]
    photo.unlink()
    with pytest.raises(UserError, match=r"holds 1 \.mat files.*describes 2"):
        open_benchmark("DND", tmp_path)
    (tmp_path / "DND" / "info.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"info\.mat: cannot be read"):
        open_benchmark("DND", tmp_path)


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="cannot be listed"):
        open_benchmark("gopro", tmp_path)
