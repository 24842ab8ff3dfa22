"""Paths and addresses that users type: here they become absolute, before any library sees them.

Libraries have rules of their own for what is not absolute: FFmpeg takes `12:30.mp4` for an address,
and none of them expands `~`, which shells leave alone in `--flag=~/photos`.
"""

import os
import re
from pathlib import Path
from typing import cast

from mprnet_jax.errors import UserError, one_line

BUCKET = re.compile(r"gs:/{1,2}(?P<name>[a-z0-9][a-z0-9._-]*)(?P<key>/[^][?#*\\\x00-\x1f]*)?")
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
            f"{path}: is an address, and must be a path here; download it or mount the bucket"
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


def anywhere(path: Path | str, *below: str) -> Path:
    """As `absolute`, but takes the address of a bucket too: gs://BUCKET/FOLDER.

    Args:
        path: a path, or an address. `pathlib.Path` drops one of its slashes, which is forgiven.
        *below: as of `absolute`.

    Returns:
        For a path, a `pathlib.Path`; for an address, what has the methods of one: `epath.Path`.

    Raises:
        UserError: as `absolute`; for an address that is none of a bucket, and if gcsfs is missing.
    """
    if not is_bucket(path):
        return absolute(path, *below)
    match = BUCKET.fullmatch(str(path))
    if not match:
        raise UserError(
            f"{path}: is no address in a bucket; write gs://BUCKET/FOLDER, without any of "
            "[ ] ? # * \\"
        )
    try:
        from mprnet_jax.compat import gcsfs
    except ImportError as error:
        raise UserError(f"{path}: needs gcsfs: pip install 'mprnet-jax[gcs]'") from error
    from etils import epath

    gcsfs.register()
    return cast(Path, epath.Path(f"gs://{match['name']}{match['key'] or ''}", *below))


def is_bucket(path: Path | str) -> bool:
    """Whether a path is an address in a bucket."""
    return str(path).startswith("gs:/")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; raises UserError where that cannot be known."""
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{path}: cannot be looked up ({one_line(error)})") from error


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
