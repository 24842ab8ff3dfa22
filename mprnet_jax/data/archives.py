"""Unpacks the .zip archives in which sets are handed out; nothing in them is trusted."""

import contextlib
import lzma
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from mprnet_jax.atomic import make_folder
from mprnet_jax.data.datasets import DatasetInfo, normalized_name
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.rgb import EXTENSIONS

UNPACKED = (*EXTENSIONS, ".mat", ".txt")  # what sets consist of; nothing else is unpacked
# Pictures are compressed already, so that a member which grows more than this is no picture. Small
# ones may: a megabyte does no harm.
MAX_RATIO, HARMLESS_BYTES = 200, 1 << 20
MAX_MEMBER_BYTES = 1 << 30  # a member is unpacked in memory

# What zipfile raises for damaged archives and members, found by mutating thousands of them.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
)


def find_archive(datasets: Sequence[DatasetInfo], source: Path) -> tuple[Path, str] | None:
    """Returns the archive of a set, and the name of the folder that it may stand for.

    Args:
        datasets: the splits of the set.
        source: the archive itself, or the folder that holds it under one of the set's names.

    Raises:
        UserError: if `source` is a file of another kind, or cannot be listed.
    """
    names = [name for dataset in datasets if dataset.own for name in dataset.own.names]
    names += [part for dataset in datasets for part in (dataset.title, *dataset.folders)]
    keys = [normalized_name(name.split("/")[0]) for name in names]
    if source.is_file():
        if source.suffix.lower() != ".zip":
            raise UserError(f"{source}: is neither a folder nor a .zip archive; unpack it")
        return source, source.stem if normalized_name(source.stem) in keys else names[0]
    try:
        archives = sorted(path for path in source.iterdir() if path.suffix.lower() == ".zip")
    except OSError as error:
        raise UserError(f"{source}: cannot be listed ({one_line(error)})") from error
    found = [path for key in keys for path in archives if normalized_name(path.stem) == key]
    return (found[0], found[0].stem) if found else None


class Unpacked(NamedTuple):
    """An archive while it is unpacked."""

    archive: Path
    folder: Path  # which stands for it
    left_out: list[str]  # a line for each member that is not in the folder

    def named(self, message: str) -> str:
        """Returns a message with paths in the archive in place of those in the folder."""
        return message.replace(str(self.folder), str(self.archive))


@contextlib.contextmanager
def unpacked(archive: Path, name: str, beside: Path) -> Iterator[Unpacked]:
    """Unpacks an archive's pictures for the duration of a block, whose errors name the archive.

    Members that are damaged, links, encrypted or too large, or would lie outside, are left out. For
    a damaged one stands an empty file, so that its pair can be named.

    Args:
        archive: the .zip file.
        name: the folder to unpack into.
        beside: where to make a temporary folder that holds that folder.

    Raises:
        UserError: if the archive is none, is a bomb, or does not fit on the disk.
    """
    make_folder(beside)
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(zipfile.ZipFile(archive))
        except DAMAGED as error:
            raise UserError(
                f"{archive}: is no whole .zip archive ({one_line(error)}); download it anew"
            ) from error
        members = [member for member in opened.infolist() if _is_of_a_set(member)]
        refused = {id(member): why for member in members if (why := _refusal(member))}
        wanted = [member for member in members if id(member) not in refused]
        _check_size(archive, wanted, beside)
        temporary = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="unpacked-", dir=beside, ignore_cleanup_errors=True)
        )
        result = Unpacked(archive, Path(temporary, name), [])
        for member in tqdm(members, f"unpacking {archive.name}", unit="file"):
            why = refused.get(id(member)) or _unpack(opened, member, result.folder)
            if why:
                result.left_out.append(f"{archive}: left out {member.filename}, which {why}")
        try:
            yield result
        except UserError as error:
            raise UserError(result.named(str(error))) from error


def _parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """Returns the parts of a member's path; some archives of Windows have backslashes."""
    path = unicodedata.normalize("NFC", member.filename.replace("\\", "/"))
    return PurePosixPath(path).parts


def _is_of_a_set(member: zipfile.ZipInfo) -> bool:
    """Whether a member is to be unpacked, or refused: not so hidden files and other kinds."""
    parts = _parts(member)
    if member.is_dir() or not parts or "__MACOSX" in parts:
        return False
    hidden = parts[-1].startswith(".")
    return not hidden and PurePosixPath(parts[-1]).suffix.lower() in UNPACKED


def _refusal(member: zipfile.ZipInfo) -> str | None:
    """Returns why a member is not to be unpacked, from the archive's directory alone."""
    parts, kind = _parts(member), stat.S_IFMT(member.external_attr >> 16)
    if ".." in parts or parts[0] == "/" or re.match("[A-Za-z]:", parts[0]):
        return "would lie outside the archive's folder"
    if kind not in (0, stat.S_IFREG):
        return "is a link or no plain file"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"is larger than {MAX_MEMBER_BYTES >> 20} MiB"
    if member.file_size > MAX_RATIO * member.compress_size + HARMLESS_BYTES:
        return f"would grow to more than {MAX_RATIO} times its size, as bombs do"
    return None


def _check_size(archive: Path, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    """Raises UserError if members overlap, as in bombs, or do not fit on the disk of a folder."""
    if sum(member.compress_size for member in members) > archive.stat().st_size:
        raise UserError(f"{archive}: its members overlap, as in bombs; download it anew")
    size, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{archive}: unpacks to {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB "
            "free; make room, or choose another --data_dir"
        )


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> str | None:
    """Unpacks a member, or an empty file in its place; returns why it cannot be read, if so."""
    why, data = None, b""
    try:
        data = archive.read(member)
    except DAMAGED as error:
        why = f"is damaged ({one_line(error)})"
    path = folder.joinpath(*_parts(member))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return "is in the archive twice"
    except OSError as error:
        raise UserError(f"{path}: cannot be unpacked ({one_line(error)})") from error
    return why
