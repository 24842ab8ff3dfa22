"""What users type as a path is that file, whatever libraries would make of it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mprnet_jax
from mprnet_jax import paths
from mprnet_jax.config import DataConfig
from mprnet_jax.data.batches import training_source
from mprnet_jax.data.opening import open_benchmark, open_splits
from mprnet_jax.data.prepared import Prepared, write_prepared
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.restoration.folders import list_jobs
from mprnet_jax.training.loop import train
from mprnet_jax.weights import files


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A home folder, beside the working folder."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("~", "home"),
        ("~/a b", "home/a b"),
        ("./~", "work/~"),
        ("~no-such-user/a", "work/~no-such-user/a"),
        ("a/~", "work/a/~"),
        ("12:30.mp4", "work/12:30.mp4"),
        ("tcp:127.0.0.1:9.mp4", "work/tcp:127.0.0.1:9.mp4"),
        ("-x", "work/-x"),
        (" a ", "work/ a "),
        ("denoise", "work/denoise"),
        ("", "work"),
    ],
)
def test_a_path_is_absolute_and_its_tilde_expanded(home, typed, expected):
    assert paths.absolute(typed) == home.parent / expected
    assert paths.absolute(paths.absolute(typed)) == home.parent / expected


def test_further_parts_follow_or_replace_the_first(home):
    assert paths.absolute("data", "train") == home.parent / "work/data/train"
    assert paths.absolute("data", "~/photos") == home / "photos"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("gs://bucket/run", "gs://bucket/run: is an address"),
        ("https://host/w.pth", "https://host/w.pth: is an address"),
        ("x" * 300, "xxx: cannot be used as a path .*too long"),
        ("a\0b", "cannot be used as a path .*null"),
    ],
)
def test_what_can_be_no_path_is_refused(home, typed, message):
    with pytest.raises(UserError, match=message):
        paths.absolute(typed)


def test_a_working_folder_that_is_gone_is_reported(home):
    os.rmdir(os.getcwd())
    with pytest.raises(UserError, match=r"photo\.png: the working folder is gone"):
        paths.absolute("photo.png")
    assert paths.shown("/a/b: wrong") == "/a/b: wrong"


def test_messages_show_paths_as_they_are_typed(home):
    here = os.getcwd()
    shown = paths.shown(f"{here}/a b.png: is no picture (see {here}/log, '{here}/c')")
    assert shown == "a b.png: is no picture (see log, 'c')"
    for other in (f"/mnt{here}/a.png: wrong", f"{here}2/a.png: wrong", f"{here}: wrong"):
        assert paths.shown(other) == other


def test_bytes_that_are_no_text_are_refused_where_libraries_take_text_only(home, tiny_run):
    name = os.fsdecode(b"na\xefve")
    os.mkdir(name)
    with pytest.raises(UserError, match=r"without .* bytes that are no UTF-8"):
        train(tiny_run, name)
    with pytest.raises(UserError, match=r"without \\ or"):
        train(tiny_run, "a\\b")
    pair = {"degraded": np.zeros((8, 8, 3), np.uint8), "target": np.zeros((8, 8, 3), np.uint8)}
    with pytest.raises(UserError, match="without bytes that are no UTF-8"):
        write_prepared(name, "set", {"train": [pair]})
    assert os.listdir(name) == []


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


def test_functions_expand_the_tilde(home, tiny_model, tiny_run):
    """Those that take what users type; nothing may come to lie in a folder named ~."""
    params = pure_functions(tiny_model)[0](0)
    files.write("~/w.safetensors", tiny_model, params)
    assert mprnet_jax.load("~/w.safetensors").config.width == tiny_model.width
    assert files.read_official(Path("~/w.safetensors"))
    (home / "run").mkdir()
    with pytest.raises(UserError, match=f"{home}/run: holds no config"):
        mprnet_jax.load("~/run")
    for role in ("input", "target"):
        save(home / f"data/GoPro/test/{role}/a.png")
    assert len(open_benchmark("GoPro", "~/data")) == 1
    folder = write_prepared("~/prepared", "gopro", open_splits("GoPro", "~/data"))
    assert folder.is_relative_to(home / "prepared")
    assert len(Prepared("~/prepared/mprnet_pairs/gopro", "test")) == 1
    for root, name in (("~/data/GoPro", "test"), ("elsewhere", "~/data/GoPro/test")):
        assert len(training_source(DataConfig(root=root, train=name))[0]) == 1
    (job,) = list_jobs(["~/data/GoPro/test/input"], "~/out")
    assert job.target == home / "out/a.png"
    tiny_run.init_from, tiny_run.model.orsnet_growth = "~/w.safetensors", 5
    with pytest.raises(UserError, match=r"init_from=~/w\.safetensors: holds a network with"):
        train(tiny_run, "~/new")
    assert os.listdir() == []


def test_a_networks_name_is_no_path(home, monkeypatch):
    (home.parent / "work/denoise").mkdir()
    asked = []
    monkeypatch.setattr(files.pretrained, "path_of", lambda name: asked.append(name) or home)
    assert (files.find("denoise"), asked) == (home, ["denoise"])
    assert files.find("./denoise") == home.parent / "work/denoise"
    assert files.find("~/denoise") == home / "denoise"
