"""Lists the photos and videos to restore, each with the file for its result."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.paths import absolute, anywhere, exists, is_bucket

SHEET = ".compare.jpg"  # suffix of the names of sheets
SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav")
ANIMATIONS = (".apng", ".gif")


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

    Hidden files and folders, sheets of `--compare` and what is in `output` are left out; for files
    of other kinds see `describe_left_out`. Links to folders are followed, each folder once.

    Args:
        inputs: photos, videos and folders, as a user typed them.
        output: the folder for results, with the subfolders of each folder.
        extension: replaces that of every photo, if given.
        videos: the extensions of videos, which are taken where they are named, not from folders.

    Raises:
        UserError: if an input is missing or holds no photo, or if an input or another result would
            be overwritten.
        OSError: if a folder cannot be listed.
    """
    folder = anywhere(output)
    if exists(folder) and not folder.is_dir():
        raise UserError(f"--output={output}: is a file; name a folder")
    if not exists(folder) and folder.suffix.lower() in (*photos.FORMATS, *videos):
        raise UserError(f"--output={output}: looks like a file; name a folder")
    found = [(file, root) for typed in inputs for file, root in _files(typed, folder, videos)]

    originals = {file.resolve() for file, _ in found}
    jobs: dict[Path, Job] = {}
    for file, root in found:
        target = folder / file.relative_to(root)
        if extension and target.suffix.lower() not in videos:
            target = target.with_suffix(extension)
        if not is_bucket(target) and (
            target.resolve() in originals or (target.exists() and target.samefile(file))
        ):
            raise UserError(f"--output={output}: would overwrite {target}; choose another folder")
        other = jobs.setdefault(target, Job(file, target)).source
        if other.resolve() != file.resolve():  # the same one twice is restored once
            raise UserError(
                f"{other} and {file} would both become {target}; restore them into two folders"
            )
    return list(jobs.values())


def _files(typed: Path | str, output: Path, videos: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """Yields the files of an input, each with the folder that `output` mirrors."""
    source = absolute(typed)
    if source.is_file():
        if source.suffix.lower() not in (*photos.FORMATS, *videos):
            raise UserError(f"--input={typed}: {describe_stranger(source)}")
        yield source, source.parent
    elif source.is_dir():
        if output.resolve() == source.resolve():
            raise UserError(f"--output={output}: is the folder of the photos; choose another")
        files = sorted(filter(is_photo, walk(source, output.resolve())))
        if not files:
            others = describe_left_out([source], output)
            raise UserError(
                f"--input={typed}: holds no {', '.join(photos.FORMATS)} files"
                + (f" (but {others})" if others else "")
            )
        for file in files:
            yield file, source
    else:
        raise UserError(f"--input={typed}: there is no such file or folder")


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


def describe_left_out(sources: Sequence[Path], output: Path) -> str:
    """Returns how many files of which other kinds folders hold, in one line; "" if they have none.

    Raises:
        OSError: if a folder cannot be listed.
    """
    kinds: Counter[str] = Counter()
    for folder in filter(Path.is_dir, sources):
        for path in walk(folder, output.resolve()):
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
        return "is sound and has no pictures; name a photo, a folder or a video"
    if extension in ANIMATIONS:
        return "may be animated; save it as a video (.mp4), or its frames as .png"
    return f"must end in {', '.join(photos.FORMATS)}"
