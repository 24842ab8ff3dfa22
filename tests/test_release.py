"""A release has one version, in the tag, the package and the change log."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest

import mprnet_jax

ROOT = Path(__file__).parents[1]
LOG = "# Changelog\n\n## 0.3.0 - 2030-01-02\n\n- New.\n\n## 0.2.0 - unreleased\n\n- Old.\n"


@pytest.fixture
def notes():
    loader = importlib.machinery.SourceFileLoader("tag", str(ROOT / ".ci/tag"))
    loader.set_data = lambda *_, **__: None  # no bytecode beside it
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("tag", loader))
    loader.exec_module(module)
    return module.notes


def test_notes_are_the_section_of_the_version(notes):
    assert notes("v0.3.0", "0.3.0", LOG) == "- New.\n"


@pytest.mark.parametrize(
    ("tag", "version", "message"),
    [
        ("v0.3.1", "0.3.0", "version.py says 0.3.0"),
        ("v0.2.0", "0.2.0", "has no line '## 0.2.0 - YYYY-MM-DD'"),
        ("v0.3", "0.3", "has no line"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(notes, tag, version, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        notes(tag, version, LOG)


def test_the_newest_section_is_that_of_the_version():
    first = re.search(r"^## (\S+) - ", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first[1] == mprnet_jax.__version__
