"""Which photos become which files: one photo, or a folder of them mirrored in another."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos

SHEET = ".compare.jpg"  # what the names of sheets end in


class Job(NamedTuple):
    """A photo's file, and the file for what it is restored to."""

    source: Path
    target: Path


def plan(source: Path, output: Path, extension: str | None = None) -> list[Job]:
    """The photo itself, or all photos in a folder and its subfolders, mirrored in `output`.

    Hidden files and folders are left out, sheets of `--compare`, and `output` itself. `extension`
    replaces that of every file.

    Raises:
        UserError: if there is no photo, a place that cannot be looked at, or a photo or a result
            that would be overwritten.
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
    if not output.is_dir() and (output.exists() or output.suffix.lower() in photos.FORMATS):
        raise UserError(f"--output={output}: is a file; name a folder")

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


def walk(folder: Path, left_out: Path) -> Iterator[Path]:
    """The photos below a folder, but no sheets, none hidden and none below `left_out`."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        here = Path(place)
        folders[:] = [n for n in folders if n[0] != "." and (here / n).resolve() != left_out]
        for name in names:
            path = here / name
            if name[0] == "." or name.endswith(SHEET):
                continue
            if path.suffix.lower() in photos.FORMATS and path.is_file():
                yield path
