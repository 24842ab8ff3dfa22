"""Paths that users type: here they become absolute, before any library sees them.

Libraries have rules of their own for what is not absolute: FFmpeg takes `12:30.mp4` for an address,
and none of them expands `~`, which shells leave alone in `--flag=~/photos`.
"""

import os
import re
from pathlib import Path

from mprnet_jax.errors import UserError

BUCKETS = ("gs://", "s3://")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def absolute(path: Path | str, *below: str) -> Path:
    """Returns a path that a user typed as an absolute one, with `~` and `~user` expanded.

    As in shells, "./~" is a file of that name, and so is "~nobody" where there is no such user.

    Args:
        path: relative to the working folder.
        *below: further parts, relative to what is before them.

    Raises:
        UserError: for addresses, such as those of buckets, and paths that the system refuses, as it
            does names that are too long. That there is no such file is no error.
    """
    if ADDRESS.match(str(path)):
        raise UserError(
            f"{path}: is an address, no path; download the file or mount the bucket, and name it"
        )
    try:
        whole = Path(*map(os.path.expanduser, (path, *below))).absolute()
    except FileNotFoundError as error:
        raise UserError(f"{path}: the working folder is gone; change to another") from error
    try:
        whole.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # ValueError: for a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be used as a path ({reason})") from error
    return whole


def check_is_text(path: Path, *refused: str) -> None:
    """Raises UserError if a path has bytes that are no UTF-8, or a part that is refused.

    For the folders of TensorStore and array_record, which take text only.
    """
    if re.search("[\ud800-\udfff]", str(path)) or any(part in str(path) for part in refused):
        signs = " or ".join([*refused, "bytes that are no UTF-8"])
        raise UserError(f"{path}: must be a folder without {signs} in its path; choose another")


def shown(text: object) -> str:
    """Returns a message with the paths in it below the working folder as relative ones."""
    try:
        folder = os.path.join(os.getcwd(), "")
    except OSError:  # it is gone
        return str(text)
    return re.sub(rf"(?<![^\s(='\"]){re.escape(folder)}(?=[^\s])", "", str(text))
