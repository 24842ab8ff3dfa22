"""Paths as users type them."""

import re
from pathlib import Path

import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.paths import user_path

PACKAGE = Path(__file__).parents[1] / "mprnet_jax"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("~", "/home/me"),
        ("~/photos/a.png", "/home/me/photos/a.png"),
        ("./~", "/work/~"),
        ("photos/~/a.png", "photos/~/a.png"),
        # Addresses to FFmpeg and others.
        ("12:30.mp4", "/work/12:30.mp4"),
        ("./12:30.mp4", "/work/12:30.mp4"),
        ("tcp:127.0.0.1:80.mp4", "/work/tcp:127.0.0.1:80.mp4"),
        ("2024:05/a.mp4", "/work/2024:05/a.mp4"),
        ("file:a.png", "/work/file:a.png"),
        ("photos/12:30.mp4", "photos/12:30.mp4"),
        ("-a.png", "-a.png"),
        ("/x:y", "/x:y"),
        (".", "."),
    ],
)
def test_what_a_user_types(typed, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path(typed) == Path(expected.replace("/work", str(tmp_path)))


def test_a_user_who_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"~nobody-here/a.png: there is no such user's folder"):
        user_path("~nobody-here/a.png")


def test_what_users_type_becomes_a_path_in_no_other_way():
    """Flags, and the fields of the config that are paths."""
    other = re.compile(
        r"(?<!user_)\bPath\((?:[A-Z_]+\.value|config\.root|config\.init_from|workdir)\b"
    )
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text().replace("Path(WEIGHTS.value).name", "")  # shown, not opened
        assert not other.search(text), file
