"""Prepared sets in buckets, of which this machine's disk gets a copy: array_record reads only that.

The copy is in the folder of the compile cache, by default ~/.cache/mprnet_jax/sets. Its name holds
the hashes of all files, so a set that is prepared anew is copied anew.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import filelock
from tqdm import tqdm

from mprnet_jax import paths
from mprnet_jax.errors import UserError, one_line


def on_disk(folder: Path, split: str) -> Path:
    """Returns a prepared set's folder, or for one in a bucket that of a copy of one split.

    The copy appears when it is whole, each file checked by its hash.

    Raises:
        UserError: if it cannot be copied, for lack of a connection or space.
    """
    if not paths.is_bucket(folder):
        return folder
    from mprnet_jax.compat import gcsfs

    try:
        hashes = gcsfs.hashes(folder)
        # TFDS's names of files: NAME-SPLIT.array_record-00000-of-00001
        wanted = {
            name: value
            for name, value in hashes.items()
            if ".array_record-" not in name or f"-{split}.array_record-" in name
        }
        state = json.dumps([str(folder), sorted(wanted.items())])
        cache = paths.absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mprnet_jax/sets")
        name = f"{folder.parent.name}-{split}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"
        copy = cache / name
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache / f"{name}.lock"):  # of several processes one copies
            if not copy.exists():
                copy_files(folder, list(wanted), copy)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be copied to this machine ({one_line(error)}); start the same "
            "command again, with XDG_CACHE_HOME on a larger disk if there is no space"
        ) from error
    return copy


def copy_files(folder: Path, names: list[str], copy: Path) -> None:
    """Copies files from a bucket, and then gives their folder its name; raises OSError."""
    from mprnet_jax.compat import gcsfs

    partial = copy.with_name(f".{uuid.uuid4().hex}")
    try:
        partial.mkdir()
        for name in tqdm(names, f"copying {folder}", unit="file", disable=None):
            gcsfs.download(folder / name, partial / name)
        partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
