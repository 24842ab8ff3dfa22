"""Lists the photos to restore, each with the file for its result."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos

SHEET = ".compare.jpg"  # suffix of the names of sheets


class Job(NamedTuple):
    """The file of a photo, and the file for its result."""

    source: Path
    target: Path


def list_jobs(source: Path, output: Path, extension: str | None = None) -> list[Job]:
    """Lists one photo, or all photos in a folder and its subfolders, with their files in `output`.

    Hidden files and folders, sheets of `--compare` and what is in `output` are left out.

    Args:
        source: a photo or a folder.
        output: the folder for results, with the subfolders of `source`.
        extension: replaces that of every file, if given.

    Raises:
        UserError: if there is no photo, or a photo or another result would be overwritten.
        OSError: if a folder cannot be listed.
    """
    if source.is_file():
        if source.suffix.lower() not in photos.FORMATS:
            raise UserError(f"--input={source}: must end in {', '.join(photos.FORMATS)}")
        files, root = [source], source.parent
    elif source.is_dir():
        if output.resolve() == source.resolve():
            raise UserError(f"--output={output}: is the folder of the photos; choose another")
        files, root = sorted(walk(source, output.resolve())), source
        if not files:
            raise UserError(f"--input={source}: holds no {', '.join(photos.FORMATS)} files")
    else:
        raise UserError(f"--input={source}: there is no such file or folder")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output}: is a file; name a folder")
    if not output.exists() and output.suffix.lower() in photos.FORMATS:
        raise UserError(f"--output={output}: looks like a file; name a folder")

    originals = {file.resolve() for file in files}
    jobs: dict[Path, Job] = {}
    for file in files:
        target = output / file.relative_to(root)
        target = target.with_suffix(extension) if extension else target
        if target.resolve() in originals or (target.exists() and target.samefile(file)):
            raise UserError(f"--output={output}: would overwrite {target}; choose another folder")
        if target in jobs:
            raise UserError(f"{jobs[target].source} and {file} would both become {target}")
        jobs[target] = Job(file, target)
    return list(jobs.values())


def walk(folder: Path, excluded: Path) -> Iterator[Path]:
    """Yields the photos below a folder, except sheets, hidden ones and those below `excluded`."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [n for n in folders if n[0] != "." and Path(root, n).resolve() != excluded]
        for name in names:
            path = Path(root, name)
            if name[0] == "." or name.endswith(SHEET):
                continue
            if path.suffix.lower() in photos.FORMATS and path.is_file():
                yield path
