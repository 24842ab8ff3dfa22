"""The paper's training and test sets, read from the folders that people have on disk.

A set is a sequence of examples, dicts of images [H, W, 3], with `.names` beside it: "degraded" and
"target", uint8 RGB. DND has no target and holds floats. Pictures are decoded when asked for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mprnet_jax.data.matlab import DndBoxes, SiddBlocks
from mprnet_jax.data.pairs import Example, PairFolder, decode, in_order
from mprnet_jax.errors import UserError

PREPARED = "mprnet_pairs"  # folder of sets prepared by `data.prepared`


class SiddScenes(Sequence[Example]):
    """SIDD's training photos: in each scene's folder files *NOISY* and, named alike, *GT*."""

    def __init__(self, folder: Path | str):
        folder = Path(folder)
        noisy = in_order(folder.glob("*/*NOISY*.PNG"))
        self.paths = [(path, path.with_name(path.name.replace("NOISY", "GT"))) for path in noisy]
        self.names = [f"{path.parent.name}_{path.stem}" for path in noisy]
        if not noisy:
            raise UserError(f"{folder}: holds no scene folders with *NOISY*.PNG files")
        alone = [path.name for path, target in self.paths if not target.is_file()]
        if alone:
            shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            raise UserError(
                f"{folder}: {len(alone)} noisy photos have no *GT* beside them ({shown})"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        degraded, target = (decode(path) for path in self.paths[index])
        if degraded.shape != target.shape:
            raise UserError(f"{self.paths[index][0]}: differs in size from its GT")
        return {"degraded": degraded, "target": target}


@dataclass(frozen=True)
class PublishedSet:
    """A set: what it is called, where it lies below a data root and who publishes it."""

    title: str
    size: int  # number of examples when complete
    folders: tuple[str, ...]  # the first that exists is read; spelt with any case and dashes
    published: str
    open: type = PairFolder
    layout: str = "with folders input and target"


RAIN = "https://github.com/kuijiang94/MSPFN (collects Rain13K and its five test sets)"
GOPRO = "https://seungjunnah.github.io/Datasets/gopro"
HIDE = "https://github.com/joanshen0508/HA_deblur"
REALBLUR = "https://cg.postech.ac.kr/research/realblur"
SIDD = "https://abdokamel.github.io/sidd"
DND = "https://noise.visinf.tu-darmstadt.de"

TRAINING_SETS = {
    # The paper counts one pair more, which was broken (swz30/MPRNet, issue 74).
    "rain13k": PublishedSet("Rain13K", 13711, ("train", "Rain13K/train", "Rain13K"), RAIN),
    "gopro": PublishedSet("GoPro", 2103, ("GoPro/train",), GOPRO),
    "sidd": PublishedSet(
        "SIDD", 320, ("SIDD/train",), SIDD, SiddScenes, "with SIDD-Medium's scene folders"
    ),
}
# Test100 was scored on 98 pairs (swz30/MPRNet, issue 23).
RAIN_SIZES = {"Test100": 98, "Rain100H": 100, "Rain100L": 100, "Test2800": 2800, "Test1200": 1200}
BENCHMARKS = {
    **{
        title.lower(): PublishedSet(title, size, (f"test/{title}", title), RAIN)
        for title, size in RAIN_SIZES.items()
    },
    "gopro": PublishedSet("GoPro", 1111, ("GoPro/test",), GOPRO),
    "hide": PublishedSet("HIDE", 2025, ("HIDE/test", "HIDE"), HIDE),
    "realblurj": PublishedSet("RealBlur-J", 980, ("RealBlur_J/test", "RealBlur_J"), REALBLUR),
    "realblurr": PublishedSet("RealBlur-R", 980, ("RealBlur_R/test", "RealBlur_R"), REALBLUR),
    "sidd": PublishedSet(
        "SIDD",
        1280,
        ("SIDD/test", "SIDD"),
        SIDD,
        SiddBlocks,
        "with ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat",
    ),
    "dnd": PublishedSet(
        "DND",
        1000,
        ("DND/test", "DND"),
        DND,
        DndBoxes,
        "with info.mat and images_srgb/0001.mat to 0050.mat",
    ),
}


def open_folder(folder: Path) -> Sequence[Example]:
    """The pairs of a folder of any of these sets but DND; has `.names`.

    Raises UserError for a folder that holds no pairs.
    """
    if not (folder / "input").is_dir():
        if list(folder.glob("Validation*BlocksSrgb.mat")):
            return SiddBlocks(folder)
        if list(folder.glob("*/*NOISY*.PNG")):
            return SiddScenes(folder)
    return PairFolder(folder)


def plain(name: str) -> str:
    """A name without case, dashes, underscores and blanks, as the keys of `BENCHMARKS` are.

    >>> plain("RealBlur-J")
    'realblurj'
    """
    return re.sub(r"[-_\s]", "", name.lower())


def find_benchmark(name: str) -> PublishedSet:
    """The test set of a name, however spelt; raises UserError if there is none."""
    return _find(BENCHMARKS, name)


def open_benchmark(name: str, root: Path | str) -> Sequence[Example]:
    """The examples of one test set; has `.names`.

    `root` holds either the folders of the set as published, or sets prepared from them.

    Raises:
        UserError: for an unknown name, a missing folder and a folder without what the set needs.
    """
    benchmark = find_benchmark(name)
    prepared = Path(root) / PREPARED / plain(name)
    if prepared.is_dir():
        from mprnet_jax.data.prepared import Prepared  # TFDS takes its time to import

        try:
            return Prepared(prepared, "test")
        except UserError as error:  # it may have been prepared for training alone
            try:
                return _open(benchmark, Path(root))
            except UserError:
                raise error from None
    return _open(benchmark, Path(root))


def open_splits(name: str, root: Path | str) -> dict[str, Sequence[Example]]:
    """What there is of a published set below `root`: "train", "test" or both; they have `.names`.

    Raises UserError as `open_benchmark` does.
    """
    _find({**TRAINING_SETS, **BENCHMARKS}, name)
    sets = {"train": TRAINING_SETS.get(plain(name)), "test": BENCHMARKS.get(plain(name))}
    sets = {split: published for split, published in sets.items() if published}
    there = [split for split in sets if _is_there(split, sets, Path(root))]
    return {split: _open(sets[split], Path(root)) for split in there or sets}


def _is_there(split: str, sets: dict[str, PublishedSet], root: Path) -> bool:
    """Whether a split's folder is there, and not just as the one that the other split lies in."""
    folder = _folder(sets[split], root)
    others = [_folder(published, root) for name, published in sets.items() if name != split]
    if folder is None or any(folder.glob("*.mat")):
        return folder is not None
    return not any(other and folder in other.parents for other in others)


def _find(sets: dict[str, PublishedSet], name: str) -> PublishedSet:
    try:
        return sets[plain(name)]
    except KeyError:
        known = ", ".join(published.title for published in sets.values())
        raise UserError(f"benchmark {name!r}: is none of {known}") from None


def _open(published: PublishedSet, root: Path) -> Sequence[Example]:
    folder = _folder(published, root)
    if folder is None:
        raise UserError(
            f"{root}: has no folder {published.folders[0]} {published.layout}, for "
            f"{published.title}; it is published at {published.published} and laid out here as "
            "by MPRNet's authors"
        )
    return published.open(folder)


def _folder(published: PublishedSet, root: Path) -> Path | None:
    folders = (find_folder(root, path) for path in published.folders)
    return next((folder for folder in folders if folder), None)


def find_folder(root: Path, path: str) -> Path | None:
    """The folder `path` below `root`, its parts compared by `plain`; None if there is none."""
    for part in path.split("/"):
        if not root.is_dir():
            return None
        folders = sorted(child for child in root.iterdir() if child.is_dir())
        same = [folder for folder in folders if plain(folder.name) == plain(part)]
        if not same:
            return None
        root = next((folder for folder in same if folder.name == part), same[0])
    return root
