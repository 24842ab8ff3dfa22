"""Finds the pairs of a folder: which clean picture belongs to which degraded one."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import natsort
from absl import logging

from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.rgb import EXTENSIONS

# Names of the two folders of pairs; the last are those of GoPro's authors.
FOLDERS = (("input", "target"), ("input", "groundtruth"), ("blur", "sharp"))
# What the rain sets' authors write before the name that a pair shares: rain-001, norain-001.
PREFIX = re.compile(r"(no)?rain[-_]?(?=.)", re.IGNORECASE)
MAX_LISTED = 5  # file names in an error message
RULES_IN = "docs/datasets.md has the rules"


class NoPairs(UserError):
    """A folder holds pairs in no known layout."""


class Pair(NamedTuple):
    """A degraded and a clean picture.

    Where both are one file, it shows them side by side: left the degraded, right the clean one.
    """

    name: str
    degraded: Path
    target: Path


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths so that numbers in them count as numbers; leaves out hidden files.

    >>> [path.name for path in natural_order(map(Path, ["rain-10", "rain-9", ".rain-8"]))]
    ['rain-9', 'rain-10']
    """
    return natsort.natsorted((path for path in paths if not path.name.startswith(".")), key=str)


def shorten(names: Sequence[str]) -> str:
    """Joins the first few names for an error message.

    >>> shorten(["1.png", "2.png"])
    '1.png, 2.png'
    """
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")


def list_pictures(folder: Path) -> dict[str, Path]:
    """Returns the pictures of a folder by stem, in natural order and without hidden files.

    Stems are in Unicode's composed form (NFC), whatever form the file system gives. Files of other
    kinds are logged.

    Raises:
        UserError: if two pictures have the same stem, or the folder cannot be listed.
    """
    pictures: dict[str, Path] = {}
    try:
        files = [p for p in folder.iterdir() if p.is_file()]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({one_line(error)})") from error
    others = []
    for path in natural_order(files):
        if path.suffix.lower() not in EXTENSIONS:
            others.append(path.name)
            continue
        stem = unicodedata.normalize("NFC", path.stem)
        if stem in pictures:
            raise UserError(f"{path}: {pictures[stem].name} has the same stem; remove one")
        pictures[stem] = path
    if others:
        logging.warning(
            "%s: leaves out %d files that are no pictures: %s", folder, len(others), shorten(others)
        )
    return pictures


def find_pair_folders(folder: Path) -> tuple[Path, Path] | None:
    """Returns the folders of degraded and of clean pictures in a folder, if it has them."""
    both = ((folder / inputs, folder / targets) for inputs, targets in FOLDERS)
    return next((pair for pair in both if all(map(Path.is_dir, pair))), None)


def pair_folders(inputs: Path, targets: Path) -> list[Pair]:
    """Pairs the pictures of two folders, by equal names or else by one of `RULES`.

    Returns:
        The pairs in the natural order of the degraded pictures, whose stems are their names.

    Raises:
        UserError: if there are none, a picture has no partner, or rules contradict each other.
    """
    degraded, clean = list_pictures(inputs), list_pictures(targets)
    if degraded.keys() != clean.keys():
        pairing = pair_by_rule(inputs, list(degraded), targets, list(clean))
        if pairing:
            return [Pair(stem, path, clean[pairing[stem]]) for stem, path in degraded.items()]
    check_partners(inputs, degraded, targets, clean)
    check_partners(targets, clean, inputs, degraded)
    if not degraded:
        raise UserError(f"{inputs}: holds no {', '.join(EXTENSIONS)} pictures")
    return [Pair(stem, path, clean[stem]) for stem, path in degraded.items()]


def check_partners(
    folder: Path, pictures: Mapping[str, Path], other_folder: Path, others: Mapping[str, Path]
) -> None:
    """Raises UserError if pictures of a folder, given by stem, have no partner in the other."""
    alone = [path.name for stem, path in pictures.items() if stem not in others]
    if alone:
        raise UserError(
            f"{folder}: {len(alone)} of {len(pictures)} pictures have no partner in {other_folder} "
            f"({shorten(alone)}); pairs share the name before the extension, or all names of a "
            f"folder differ from it by one rule ({RULES_IN})"
        )


def _without_rain(stems: Sequence[str]) -> list[str]:
    return [PREFIX.sub("", stem, count=1) for stem in stems]


def _without_common(stems: Sequence[str]) -> list[str]:
    """Drops what all stems begin and end with, but no digits: they may belong to a number.

    >>> _without_common(["a_001x2", "a_002x2"])
    ['001', '002']
    """
    if len(stems) < 2:
        return []
    begin = _common(stems).rstrip("0123456789")
    rest = [stem.removeprefix(begin) for stem in stems]
    end = _common([stem[::-1] for stem in rest])[::-1].lstrip("0123456789")
    return [stem.removesuffix(end) for stem in rest]


def _common(stems: Sequence[str]) -> str:
    """Returns what all stems begin with."""
    same = itertools.takewhile(lambda signs: len(signs) == 1, map(set, zip(*stems)))
    return "".join(sign for (sign,) in same)


def _number(position: int) -> Callable[[Sequence[str]], list[str]]:
    def keys(stems: Sequence[str]) -> list[str]:
        numbers = [re.findall("[0-9]+", stem) for stem in stems]
        return [found[position].lstrip("0") for found in numbers] if all(numbers) else []

    return keys


# Rule -> what it leaves of the stems of a folder; pairs agree in it. An empty list: not applicable.
RULES: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "the name without rain or norain before it": _without_rain,
    "the name without what all names of a folder begin or end with": _without_common,
    "the first number in the name": _number(0),
    "the last number in the name": _number(-1),
}


def pair_by_rule(
    inputs: Path, degraded: Sequence[str], targets: Path, clean: Sequence[str]
) -> dict[str, str] | None:
    """Pairs stems that differ by one of `RULES`, and logs the rule.

    Args:
        inputs: folder of the degraded pictures, for messages.
        degraded: their stems.
        targets: folder of the clean pictures, for messages.
        clean: their stems.

    Returns:
        The clean stem of each degraded one; None if no rule pairs all.

    Raises:
        UserError: if rules pair all, but not alike.
    """
    found: dict[str, dict[str, str]] = {}
    for rule, keys in RULES.items():
        ours, theirs = (dict(zip(keys(stems), stems)) for stems in (degraded, clean))
        unique = len(ours) == len(degraded) and len(theirs) == len(clean)
        if not (unique and ours and ours.keys() == theirs.keys()):
            continue
        pairing = {stem: theirs[key] for key, stem in ours.items()}
        if all(pairing[stem] == stem for stem in pairing.keys() & set(clean)):
            found[rule] = pairing
    if not found:
        return None
    pairings = list(found.values())
    different = [s for s in degraded if len({pairing[s] for pairing in pairings}) > 1]
    if different:
        ways = [f"by {rule} with {pairing[different[0]]}" for rule, pairing in found.items()]
        raise UserError(
            f"{inputs}: its pictures pair with those of {targets} in more than one way: "
            f"{different[0]} {', '.join(ways)}; give both pictures of a pair one name"
        )
    rule, pairing = next(iter(found.items()))
    example = f"{degraded[0]} with {pairing[degraded[0]]}"
    logging.warning("%s: pairs with %s by %s, as %s", inputs, targets.name, rule, example)
    return pairing
