"""Lists the photos and videos to restore, each with the file for its result."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mprnet_jax import paths
from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos

SHEET = ".compare.jpg"  # suffix of the names of sheets


class Job(NamedTuple):
    """The file of a photo or video, and the file for its result; both paths are absolute."""

    source: Path
    target: Path


def list_jobs(
    inputs: Sequence[Path | str],
    output: Path | str,
    extension: str | None = None,
    videos: Collection[str] = (),
) -> list[Job]:
    """Lists photos, videos, and all photos in folders and their subfolders.

    Hidden files and folders, sheets of `--compare` and what is in `output` are left out.

    Args:
        inputs: photos, videos and folders, as a user typed them.
        output: the folder for results, with the subfolders of each folder.
        extension: replaces that of every file, if given.
        videos: the extensions of videos.

    Raises:
        UserError: if an input is missing or holds no photo, or if an input or another result would
            be overwritten.
        OSError: if a folder cannot be listed.
    """
    folder = paths.absolute(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={output}: is a file; name a folder")
    if not folder.exists() and folder.suffix.lower() in (*photos.FORMATS, *videos):
        raise UserError(f"--output={output}: looks like a file; name a folder")
    found = [(file, root) for typed in inputs for file, root in _files(typed, folder, videos)]

    originals = {file.resolve() for file, _ in found}
    jobs: dict[Path, Job] = {}
    for file, root in found:
        target = folder / file.relative_to(root)
        target = target.with_suffix(extension) if extension else target
        if target.resolve() in originals or (target.exists() and target.samefile(file)):
            raise UserError(f"--output={output}: would overwrite {target}; choose another folder")
        other = jobs.setdefault(target, Job(file, target)).source
        if other.resolve() != file.resolve():  # the same one twice is restored once
            raise UserError(
                f"{other} and {file} would both become {target}; restore them into two folders"
            )
    return list(jobs.values())


def _files(typed: Path | str, output: Path, videos: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """Yields the files of an input, each with the folder that `output` mirrors."""
    source = paths.absolute(typed)
    if source.is_file():
        known = (*photos.FORMATS, *videos)
        if source.suffix.lower() not in known:
            raise UserError(f"--input={typed}: must end in {', '.join(known)}")
        yield source, source.parent
    elif source.is_dir():
        if output.resolve() == source.resolve():
            raise UserError(f"--output={output}: is the folder of the photos; choose another")
        files = sorted(walk(source, output.resolve()))
        if not files:
            raise UserError(f"--input={typed}: holds no {', '.join(photos.FORMATS)} files")
        for file in files:
            yield file, source
    else:
        raise UserError(f"--input={typed}: there is no such file or folder")


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
