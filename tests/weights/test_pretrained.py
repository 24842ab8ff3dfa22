"""The networks that come with the package: found by name, whole, and good for something."""

import functools
from pathlib import Path

import numpy as np
import pytest

import mprnet_jax
from mprnet_jax.data import sample
from mprnet_jax.data.degradations import add_gaussian_noise, add_rain_and_haze
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation.metrics import psnr
from mprnet_jax.weights import files, pretrained

ROOT = Path(__file__).parents[2]
MAX_MEGABYTES = 6


@pytest.fixture
def copied(tmp_path: Path, monkeypatch) -> Path:
    """The folder of the weights, as a copy that may be damaged."""
    for name in pretrained.PRETRAINED:
        (tmp_path / f"{name}.safetensors").write_bytes(pretrained.path_of(name).read_bytes())
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "degrade"),
    [
        ("denoise", functools.partial(add_gaussian_noise, deviation=30)),
        ("derain", add_rain_and_haze),
    ],
)
def test_photos_that_the_networks_never_saw_are_restored(name, degrade):
    photo = np.ascontiguousarray(sample.photo("chelsea.png")[60:188, 60:188])
    degraded = degrade(photo, np.random.default_rng(0))
    restored = mprnet_jax.Restorer(mprnet_jax.load(name))(degraded)
    assert psnr(restored, photo) > psnr(degraded, photo) + 8


@pytest.mark.parametrize("name", pretrained.PRETRAINED)
def test_each_is_small_free_and_described(name):
    assert pretrained.path_of(name).stat().st_size < MAX_MEGABYTES * 1e6
    assert files.read(name).origin["licence"] == "Apache-2.0"
    assert files.read_official(name).keys()
    card = (ROOT / f"docs/models/{name}.md").read_text()
    assert pretrained.PRETRAINED[name].sha256 in card


def test_a_folder_of_the_same_name_is_given_as_a_path(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("denoise").mkdir()
    assert files.find("denoise").is_file()
    assert files.find("./denoise") == tmp_path / "denoise"
    assert files.find(Path("denoise")) == tmp_path / "denoise"


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"denois: there is no such file.*\(denoise, derain\)$"):
        mprnet_jax.load("denois")


def test_damage_is_told(copied: Path):
    path = copied / "denoise.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"denoise.safetensors: damaged .*install the package"):
        mprnet_jax.load("denoise")
    path.unlink()
    with pytest.raises(UserError, match=r"denoise.safetensors: cannot be read .*install"):
        files.read_official("denoise")
