"""Lists the photos to restore, each with the file for its result."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos

SHEET = ".compare.jpg"  # suffix of the names of sheets
SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav")
ANIMATIONS = (".apng", ".gif")


class Job(NamedTuple):
    """The file of a photo, and the file for its result."""

    source: Path
    target: Path


def list_jobs(source: Path, output: Path, extension: str | None = None) -> list[Job]:
    """Lists one photo, or all photos in a folder and its subfolders, with their files in `output`.

    Hidden files and folders, sheets of `--compare` and what is in `output` are left out; for files
    of other kinds see `describe_left_out`. Links to folders are followed, each folder once.

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
            raise UserError(describe_stranger(source))
        files, root = [source], source.parent
    elif source.is_dir():
        if output.resolve() == source.resolve():
            raise UserError(f"--output={output}: is the folder of the photos; choose another")
        files, root = sorted(filter(is_photo, walk(source, output.resolve()))), source
        if not files:
            others = describe_left_out(source, output)
            raise UserError(
                f"--input={source}: holds no {', '.join(photos.FORMATS)} files"
                + (f" (but {others})" if others else "")
            )
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
    """Yields what a folder and its subfolders hold, except sheets, hidden files and the folder
    `excluded`.

    Links to folders are followed after all else, each folder once, and never to one that holds
    `folder` itself; other links are yielded.
    """

    def fail(error: OSError) -> None:
        raise error

    top = folder.resolve()
    seen = {top}
    waiting = [folder]
    while waiting:
        for root, folders, names in os.walk(waiting.pop(0), onerror=fail):
            paths = [Path(root, name) for name in sorted(folders) if name[0] != "."]
            paths = [path for path in paths if path.resolve() != excluded]
            links = [path for path in paths if path.is_symlink()]
            folders[:] = [path.name for path in paths if path not in links]
            seen |= {path.resolve() for path in paths if path not in links}
            waiting += links
            for name in names:
                if name[0] != "." and not name.endswith(SHEET):
                    yield Path(root, name)
        while waiting:
            target = waiting[0].resolve()
            if target not in seen and not is_within(top, target):
                seen.add(target)
                break
            yield waiting.pop(0)


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it; both are resolved."""
    return path == folder or folder in path.parents


def is_photo(path: Path) -> bool:
    """Whether a path looks like a photo."""
    return path.suffix.lower() in photos.FORMATS and path.is_file()


def describe_left_out(source: Path, output: Path) -> str:
    """Returns how many files of which other kinds a folder holds, in one line; "" if it has none.

    Raises:
        OSError: if a folder cannot be listed.
    """
    if not source.is_dir():
        return ""
    kinds: Counter[str] = Counter()
    for path in walk(source, output.resolve()):
        if path.is_dir():
            kinds["links to folders that are walked already, or around them"] += 1
        elif not path.is_file():
            kinds["broken links or special files"] += 1
        elif not is_photo(path):
            kinds[path.suffix.lower() or "files without extension"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def describe_stranger(path: Path) -> str:
    """Returns why a file is no photo to restore, and what to do."""
    extension = path.suffix.lower()
    if extension in SOUNDS:
        return f"--input={path}: is sound and has no pictures; name a photo, a folder or a video"
    if extension in ANIMATIONS:
        return f"--input={path}: may be animated; save it as a video (.mp4), or its frames as .png"
    return f"--input={path}: must end in {', '.join(photos.FORMATS)}"
