"""Which photos become which files."""

import os
from pathlib import Path

import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.restoration.folders import list_jobs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Photos at two depths, and files that are none."""
    for name in ("b.png", "a.JPG", "deep/er/c.tiff", "notes.txt", ".hidden.png", ".cache/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "photos/folder.png").mkdir()
    return tmp_path / "photos"


def names(jobs) -> list[tuple[str, str]]:
    return [(job.source.name, job.target.as_posix().split("out/")[1]) for job in jobs]


def test_a_folder_is_mirrored_without_hidden_files(tree: Path, tmp_path: Path):
    expected = [("a.JPG", "a.JPG"), ("b.png", "b.png"), ("c.tiff", "deep/er/c.tiff")]
    assert names(list_jobs([tree], tmp_path / "out")) == expected


def test_a_format_replaces_extensions(tree: Path, tmp_path: Path):
    assert names(list_jobs([tree], tmp_path / "out", ".webp"))[2] == ("c.tiff", "deep/er/c.webp")


def test_sheets_are_no_photos(tree: Path, tmp_path: Path):
    before = list_jobs([tree], tmp_path / "out")
    (tree / "a.png.compare.jpg").write_bytes(b"")
    assert list_jobs([tree], tmp_path / "out") == before


def test_one_photo(tree: Path, tmp_path: Path):
    assert names(list_jobs([tree / "deep/er/c.tiff"], tmp_path / "out")) == [("c.tiff", "c.tiff")]


def test_results_inside_the_folder_are_no_photos(tree: Path):
    (tree / "out").mkdir()
    (tree / "out/b.png").write_bytes(b"")
    assert len(list_jobs([tree], tree / "out")) == 3


@pytest.mark.parametrize(
    ("source", "output", "extension", "message"),
    [
        ("nowhere", "out", None, "--input=.*nowhere: there is no such file or folder"),
        ("photos/notes.txt", "out", None, "notes.txt: must end in .png"),
        ("photos/folder.png", "out", None, "holds no .png"),
        ("photos", "photos", None, "is the folder of the photos"),
        ("photos/b.png", "photos", None, "would overwrite .*b.png"),
        ("photos", "photos/notes.txt", None, "is a file; name a folder"),
        ("photos/b.png", "restored.png", None, "looks like a file; name a folder"),
    ],
)
def test_mistakes_are_refused(tree: Path, source, output, extension, message):
    with pytest.raises(UserError, match=message):
        list_jobs([tree.parent / source], tree.parent / output, extension)


def test_two_photos_that_would_become_one_file_are_refused(tree: Path, tmp_path: Path):
    (tree / "b.bmp").write_bytes(b"")
    assert len(list_jobs([tree], tmp_path / "out")) == 4
    with pytest.raises(UserError, match=r"b\.bmp and .*b\.png would both become .*b\.webp"):
        list_jobs([tree], tmp_path / "out", ".webp")


def test_no_other_photo_is_overwritten_either(tree: Path):
    (tree / "deep/deep/er").mkdir(parents=True)
    (tree / "deep/deep/er/c.tiff").write_bytes(b"")
    with pytest.raises(UserError, match=r"would overwrite .*photos/deep/er/c\.tiff"):
        list_jobs([tree / "deep"], tree)


def test_a_link_to_the_photo_is_not_overwritten(tree: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    os.link(tree / "b.png", tmp_path / "out/b.png")
    with pytest.raises(UserError, match=r"would overwrite .*b\.png"):
        list_jobs([tree], tmp_path / "out")


def test_several_inputs_are_listed_together(tree: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "12:30,a.mp4").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    inputs = ["photos/deep", "12:30,a.mp4", "photos/b.png", Path("photos/a.JPG")]
    jobs = list_jobs(inputs, "out", videos=[".mp4"])
    assert names(jobs) == [
        ("c.tiff", "er/c.tiff"),
        ("12:30,a.mp4", "12:30,a.mp4"),
        ("b.png", "b.png"),
        ("a.JPG", "a.JPG"),
    ]
    assert all(path.is_absolute() for job in jobs for path in job)


def test_a_photo_that_is_named_twice_is_restored_once(tree: Path, tmp_path: Path):
    inputs = [tree, tree / "b.png", tree / "deep/../b.png", tree / "deep/er/c.tiff"]
    jobs = names(list_jobs(inputs, tmp_path / "out"))
    # Into two places where it is named in two ways, as a folder keeps its subfolders.
    assert jobs == [*names(list_jobs([tree], tmp_path / "out")), ("c.tiff", "c.tiff")]


@pytest.mark.parametrize("other", ["other/b.png", "other"])
def test_inputs_with_one_name_are_refused(tree: Path, tmp_path: Path, other):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"photos/b\.png and .*other/b\.png would both become"):
        list_jobs([tree / "b.png", tmp_path / other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_input_is_overwritten_by_another(tree: Path, tmp_path: Path):
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"would overwrite .*photos/b\.png"):
        list_jobs([tmp_path / "b.png", tree / "b.png"], tree)


def test_a_missing_one_of_several_is_named_as_it_was_typed(tree: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--input=\./none\.png: there is no such file or folder"):
        list_jobs(["photos", "./none.png"], "out")
