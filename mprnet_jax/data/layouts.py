"""The layouts in which the sets' own authors hand them out.

A layout is a pattern of the paths of degraded pictures, and says where the clean ones lie. Paths
are relative, with / and without extension, so that a set may be saved in another format.
docs/datasets.md says where each layout was read.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import natsort

from mprnet_jax.data.pairing import NoPairs, Pair, find_pair_folders, pair_folders, shorten
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.rgb import EXTENSIONS

OWN_DEPTH, DEPTH = 8, 4  # folders that are walked below an author's folder, and any other


class Layout(NamedTuple):
    """Where the degraded and the clean picture of a pair lie, and the pair's name."""

    degraded: str  # regular expression
    target: str  # template with its groups
    name: str  # likewise


GOPRO = Layout(r"([^/]+)/blur/([^/]+)", r"\1/sharp/\2", r"\1-\2")
BSD = Layout(r"([^/]+)/Blur/RGB/([^/]+)", r"\1/Sharp/RGB/\2", r"\1-\2")
HIDE = Layout(r"test/test-(?:close-ups|long-shot)/([^/]+)", r"GT/\1", r"\1")
SIDD = Layout(r"((?:Data/)?)([^/]+)/([^/]*)NOISY([^/]*)", r"\1\2/\3GT\4", r"\2_\3NOISY\4")
RAIN100 = (
    Layout(r"(?:rainy/)?rain-([0-9]+)", r"norain-\1", r"rain-\1"),
    Layout(r"rain/rain-([0-9]+)", r"norain/norain-\1", r"rain-\1"),
)
RAIN14000 = (  # 14 rainy versions of each clean picture
    Layout(r"rainy_image/([0-9]+)_([0-9]+)", r"ground_truth/\1", r"\1_\2"),
    Layout(r"rainy image/([0-9]+)_([0-9]+)", r"ground truth/\1", r"\1_\2"),
)
# A picture that is its own target shows both, side by side.
RAIN12000 = Layout(r"(Rain_[^/]+/train2018new)/([0-9]+)", r"\1/\2", r"\1-\2")
RAIN1200 = Layout(r"([0-9]+)", r"\1", r"\1")

# Of any folder. RAIN1200 is missing, as numbered pictures may be anything.
LAYOUTS = (GOPRO, BSD, HIDE, SIDD, *RAIN100, *RAIN14000, RAIN12000)


@dataclass(frozen=True)
class Own:
    """How a set's own authors hand it out."""

    names: tuple[str, ...]  # of its folder or archive; case, dashes and underscores do not matter
    layouts: tuple[Layout, ...] = ()
    within: tuple[str, ...] = ()  # the folder that holds a split has one of these names
    list_file: str = ""  # names the pairs of a split: a line has the clean and the degraded one


def list_pairs(folder: Path) -> list[Pair]:
    """Returns the pairs of a folder: those of its folders `input` and `target`, or of a layout.

    Raises:
        NoPairs: if it has no known layout.
        UserError: if a picture has no partner.
    """
    if both := find_pair_folders(folder):
        return pair_folders(*both)
    pictures = walk(folder, DEPTH)
    for layout in LAYOUTS:
        if pairs := _pairs(folder, pictures, layout, {path: [("", path)] for path in pictures}):
            return pairs
    raise NoPairs(
        f"{folder}: must hold the folders input and target, or a set as its authors hand it out "
        "(docs/datasets.md lists the layouts)"
    )


def list_own_pairs(folder: Path, own: Own) -> list[Pair]:
    """Returns the pairs of a set in its authors' folder, or in folders around that.

    Raises:
        NoPairs: if they are not there.
        UserError: if a picture has no partner.
    """
    if own.list_file:
        return _listed_pairs(folder, own.list_file)
    # The folder's own name counts too, for a split may be all that is there.
    pictures = walk(folder, OWN_DEPTH, folder.name)
    starts = {path: list(_starts(path, own.within)) for path in pictures}
    for layout in own.layouts:
        if pairs := _pairs(folder.parent, pictures, layout, starts):
            return pairs
    raise NoPairs(f"{folder}: does not hold the set as its authors hand it out")


def walk(folder: Path, depth: int, top: str = "") -> dict[str, Path]:
    """Returns the pictures below a folder by their path without extension; not the hidden ones.

    Args:
        folder: what to walk.
        depth: how many folders to go down.
        top: is put before the paths.

    Raises:
        UserError: if a folder cannot be listed, or two pictures differ by their extension only.
    """

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename}: cannot be listed ({one_line(error)})") from error

    pictures: dict[str, Path] = {}
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        base = Path(place).relative_to(folder)
        deepest = len(base.parts) + 1 == depth
        folders[:] = [] if deepest else sorted(filter(_is_shown, folders))
        for name in filter(_is_shown, files):
            if Path(name).suffix.lower() not in EXTENSIONS:
                continue
            path = unicodedata.normalize("NFC", (top / base / Path(name).stem).as_posix())
            if path in pictures:
                raise UserError(
                    f"{Path(place, name)}: {pictures[path].name} has the same stem; remove one"
                )
            pictures[path] = Path(place, name)
    return pictures


def _starts(path: str, within: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the ways to cut a path in two, after one of certain folders, if there are such."""
    names = path.split("/")
    for depth in range(len(names)):
        if not within or (depth and names[depth - 1].lower() in within):
            yield "/".join(names[:depth]), "/".join(names[depth:])


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _pairs(
    folder: Path,
    pictures: Mapping[str, Path],
    layout: Layout,
    starts: Mapping[str, Sequence[tuple[str, str]]],
) -> list[Pair]:
    """Returns the pairs in a layout, in natural order; none if no clean picture is in its place.

    Args:
        folder: what the paths are relative to, for messages.
        pictures: the files of all pictures, by path.
        layout: the layout.
        starts: of each path, the parts before and after the folder in which the layout may start.

    Raises:
        UserError: if only some clean pictures are there.
    """
    found, alone = [], []
    for path, ways in starts.items():
        matches = [(top, m) for top, rest in ways if (m := re.fullmatch(layout.degraded, rest))]
        for top, match in matches:
            target = pictures.get("/".join(filter(None, (top, match.expand(layout.target)))))
            if target:
                name = match.expand(layout.name).replace("/", "-")
                found.append((top.replace("/", "-"), Pair(name, pictures[path], target)))
                break
        else:
            alone += [path] if matches else []
    if not found:
        return []
    if alone:
        raise UserError(
            f"{folder}: {len(alone)} of {len(alone) + len(found)} degraded pictures have no clean "
            f"one in its place ({shorten(natsort.natsorted(alone))}); docs/datasets.md has the "
            "layout"
        )
    if len({pair.name for _, pair in found}) < len(found):
        found = [(top, pair._replace(name=f"{top}-{pair.name}")) for top, pair in found]
    return natsort.natsorted([pair for _, pair in found], key=lambda pair: str(pair.degraded))


def _listed_pairs(folder: Path, list_file: str) -> list[Pair]:
    """Returns the pairs that a list in a folder or in one below names.

    Raises:
        NoPairs: if there is no such list.
        UserError: if it cannot be read, or a file that it names is not there.
    """
    lists = [folder / list_file, *sorted(folder.glob(f"*/{list_file}"))]
    found = next(filter(Path.is_file, lists), None)
    if found is None:
        raise NoPairs(f"{folder}: has no {list_file}")
    pairs = list(_lines(found))
    missing = [str(path) for pair in pairs for path in pair[1:] if not path.is_file()]
    if missing or not pairs:
        raise UserError(
            f"{found}: names {len(pairs)} pairs, of which {len(missing)} pictures are not there "
            f"({shorten(missing)}); put the list beside the folder that it names"
        )
    return natsort.natsorted(pairs, key=lambda pair: str(pair.degraded))


def _lines(path: Path) -> Iterator[Pair]:
    """Yields the pairs of a list; paths are relative to its folder."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        names = [Path(name) for name in line.split()]
        if len(names) != 2 or any(name.is_absolute() or ".." in name.parts for name in names):
            raise UserError(
                f"{path}, line {number}: must be the paths of a clean and of a degraded picture, "
                "relative to the folder of the list"
            )
        target, degraded = (path.parent / name for name in names)
        name = f"{degraded.parent.parent.name}-{degraded.stem.removeprefix('blur_')}"
        yield Pair(name, degraded, target)
