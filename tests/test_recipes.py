"""Config files by name and by path, and that the recipes come with the package."""

import configparser
from pathlib import Path

import pytest
from setuptools import find_packages

from mprnet_jax import recipes
from mprnet_jax.config import flatten
from mprnet_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_all_packages_and_the_recipes():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()
    expected = find_packages(str(ROOT), include=["mprnet_jax*"])
    assert packages == sorted([*expected, "mprnet_jax.configs"])
    assert setup["options"]["package_dir"].split() == ["mprnet_jax.configs", "=", "configs"]


def test_recipes_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    assert recipes.names() == ["deblur", "denoise", "derain"]
    derain = ROOT / "configs/derain.py"
    monkeypatch.chdir(ROOT)
    for text in ("derain", "configs/derain.py", "./configs/derain.py", str(derain)):
        assert recipes.find(text) == (derain, [])
        assert recipes.find(f"{text}:sample") == (derain, ["sample"])
    assert recipes.load("derain:sample").name == "derain-sample"

    # A recipe's name wins, as that of a network; a path may hold colons, and so may a variant.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "12:30").mkdir()
    for name in ("derain", "12:30/mine.py"):
        (tmp_path / name).write_text("")
    assert recipes.find("derain") == (derain, [])
    assert recipes.find("./derain") == (tmp_path / "derain", [])
    mine = tmp_path / "12:30/mine.py"
    assert recipes.find("12:30/mine.py") == (mine, [])
    assert recipes.find("~/12:30/mine.py:a:b/c") == (mine, ["a:b/c"])
    assert recipes.find("12:30/mine.py:") == (mine, [""])


def test_safe_deblurring_is_the_recipe_with_a_clip_and_a_limit_to_spikes():
    plain, safe = recipes.load("deblur"), recipes.load("deblur:safe")
    safe.validate()
    before, after = flatten(plain), flatten(safe)
    assert {name: (before[name], after[name]) for name in after if before[name] != after[name]} == {
        "name": ("deblur", "deblur-safe"),
        "optim.clip_norm": (0.0, 0.01),
        "optim.spike_factor": (0.0, 20.0),
    }


@pytest.mark.parametrize("text", ["snow", "snow:sample", "configs/snow.py", "", ":sample"])
def test_an_unknown_one_lists_the_recipes(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--config={text}: .*deblur, denoise, derain"):
        recipes.find(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def get_config(:", r"mine\.py, line 1: SyntaxError"),
        (b"\xff", r"mine\.py.*SyntaxError"),
        (b"a\0b", r"mine\.py.*null"),
        (b"", r"mine\.py: has no attribute 'get_config'"),
        (b"def get_config(): return 1", r"mine\.py: returns no TrainConfig"),
    ],
)
def test_a_file_that_is_no_config_is_named(content, message, tmp_path):
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(UserError, match=message):
        recipes.load(str(tmp_path / "mine.py"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]  # no bytecode


def test_a_config_may_define_dataclasses(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from mprnet_jax import recipes\n"
        "@dataclass\n"
        "class Sizes:\n"
        "    steps: int = 3\n"
        "def get_config(variant):\n"
        "    config = recipes.load(variant)\n"
        "    config.total_steps = Sizes().steps + 100\n"
        "    return config\n"
    )
    assert recipes.load(f"{tmp_path}/mine.py:derain:sample").total_steps == 103
