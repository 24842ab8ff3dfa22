"""Recipes are found by name, in a clone and in an installed package."""

import configparser
from pathlib import Path

import pytest

from mprnet_jax import recipes
from mprnet_jax.errors import UserError
from mprnet_jax.recipes import find_recipe

ROOT = Path(__file__).parents[1]


def test_a_name_becomes_the_path_of_its_file(tmp_path: Path, monkeypatch):
    assert find_recipe("derain") == str(ROOT / "configs/derain.py")
    assert find_recipe("denoise:sample") == f"{ROOT}/configs/denoise.py:sample"
    # As installed from a wheel.
    (tmp_path / "mine.py").touch()
    monkeypatch.setattr(recipes, "FOLDERS", (tmp_path, tmp_path / "none"))
    assert find_recipe("mine") == str(tmp_path / "mine.py")


def test_paths_stay(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert find_recipe("configs/derain.py:sample") == "configs/derain.py:sample"
    assert find_recipe("derain.py") == "derain.py"
    assert find_recipe("~/mine.py:x") == "/home/me/mine.py:x"


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="no recipe 'snow', only deblur, denoise, derain; give"):
        find_recipe("snow:sample")


def test_wheels_hold_every_package_and_the_recipes():
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg")
    listed = options["options"]["packages"].split()
    found = [
        ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("mprnet_jax/**/__init__.py")
    ]
    assert sorted(listed) == sorted([*found, "mprnet_jax.configs"])
    assert options["options"]["package_dir"].strip() == "mprnet_jax.configs = configs"
