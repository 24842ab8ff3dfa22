"""Writes files completely or not at all, and checks that folders can be written to.

Folders may lie in buckets, where files are objects.
"""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from mprnet_jax import paths
from mprnet_jax.errors import UserError, one_line

_incomplete: set[Path] = set()  # files that are being written


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path on a disk, with the same extension, for the block to write to.

    At the end of the block the file takes the place of `path` as a whole: it lies beside it and is
    renamed, or becomes an object in a bucket. If the block raises, it is removed.
    """
    in_bucket = paths.is_bucket(path)
    path = paths.anywhere(path) if in_bucket else Path(path)
    folder = Path(tempfile.gettempdir()) if in_bucket else path.parent
    temporary = folder / f".{uuid.uuid4().hex}{path.suffix}"
    _incomplete.add(temporary)
    try:
        yield temporary
        if in_bucket:
            from mprnet_jax.compat import gcsfs

            gcsfs.upload(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _incomplete.discard(temporary)


def remove_temporaries() -> None:
    """Removes the temporary files of all `replacing` blocks, for a process that ends at once."""
    for temporary in tuple(_incomplete):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """As `replacing`, for a block that does nothing but write the file.

    Raises:
        UserError: for any OSError of the block.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or one_line(error)})"
        ) from error


def make_folder(folder: Path) -> None:
    """Creates a folder if it is missing; raises UserError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if paths.is_bucket(folder):
            probe = folder / f".{uuid.uuid4().hex}"
            with replacing(probe) as temporary:
                temporary.touch()
            probe.unlink()
        else:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made a folder to write to ({one_line(error)})"
        ) from error


def move_folder(folder: Path, target: Path) -> None:
    """Gives a folder another name; raises OSError.

    In a bucket all is copied before anything is removed.
    """
    if paths.is_bucket(folder):
        from mprnet_jax.compat import gcsfs

        gcsfs.move_folder(folder, target)
    else:
        folder.rename(target)
