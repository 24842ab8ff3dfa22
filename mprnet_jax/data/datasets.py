"""The paper's training and test sets, and how to find their folders.

Pictures are RGB and decoded when an example is read. DND has no "target" and holds floats.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mprnet_jax.data.matlab import DndBoxes, SiddBlocks
from mprnet_jax.data.pairs import (
    Example,
    PairFolder,
    Source,
    deepest,
    natural_order,
    read_pair,
    shorten,
)
from mprnet_jax.errors import UserError, one_line

PREPARED = "mprnet_pairs"  # folder of the sets that `data.prepared` writes


class SiddScenes:
    """SIDD's training photos: a folder for each scene, with *NOISY* and *GT* files of one name."""

    def __init__(self, folder: Path | str):
        """Lists the photos; raises UserError unless every noisy one has a clean one."""
        folder = Path(folder)
        noisy = natural_order(folder.glob("*/*NOISY*.PNG"))
        self.paths = [(path, path.with_name(path.name.replace("NOISY", "GT"))) for path in noisy]
        self.names = [f"{path.parent.name}_{path.stem}" for path in noisy]
        if not noisy:
            raise UserError(f"{folder}: holds no scene folders with *NOISY*.PNG files")
        alone = [path.name for path, target in self.paths if not target.is_file()]
        if alone:
            raise UserError(
                f"{folder}: {len(alone)} noisy photos have no *GT* beside them ({shorten(alone)})"
            )
        self.dtype = deepest(path for pair in self.paths for path in pair)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return read_pair(*self.paths[index], self.dtype)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a set: its title, its folders below a data root, where to download it."""

    title: str
    num_examples: int  # when complete
    folders: tuple[str, ...]  # the first that exists is read; case and dashes do not matter
    url: str
    open: Callable[[Path], Source] = PairFolder
    layout: str = "with folders input and target"


RAIN = "https://github.com/kuijiang94/MSPFN (collects Rain13K and its five test sets)"
GOPRO = "https://seungjunnah.github.io/Datasets/gopro"
HIDE = "https://github.com/joanshen0508/HA_deblur"
REALBLUR = "https://cg.postech.ac.kr/research/realblur"
SIDD = "https://abdokamel.github.io/sidd"
DND = "https://noise.visinf.tu-darmstadt.de"

TRAINING_SETS = {
    # The paper counts one more pair, which was broken (swz30/MPRNet, issue 74).
    "rain13k": DatasetInfo("Rain13K", 13711, ("train", "Rain13K/train", "Rain13K"), RAIN),
    "gopro": DatasetInfo("GoPro", 2103, ("GoPro/train",), GOPRO),
    "sidd": DatasetInfo(
        "SIDD", 320, ("SIDD/train",), SIDD, SiddScenes, "with SIDD-Medium's scene folders"
    ),
}
# The paper scores Test100 on 98 pairs (swz30/MPRNet, issue 23).
RAIN_SIZES = {"Test100": 98, "Rain100H": 100, "Rain100L": 100, "Test2800": 2800, "Test1200": 1200}
BENCHMARKS = {
    **{
        title.lower(): DatasetInfo(title, size, (f"test/{title}", title), RAIN)
        for title, size in RAIN_SIZES.items()
    },
    "gopro": DatasetInfo("GoPro", 1111, ("GoPro/test",), GOPRO),
    "hide": DatasetInfo("HIDE", 2025, ("HIDE/test", "HIDE"), HIDE),
    "realblurj": DatasetInfo("RealBlur-J", 980, ("RealBlur_J/test", "RealBlur_J"), REALBLUR),
    "realblurr": DatasetInfo("RealBlur-R", 980, ("RealBlur_R/test", "RealBlur_R"), REALBLUR),
    "sidd": DatasetInfo(
        "SIDD",
        1280,
        ("SIDD/test", "SIDD"),
        SIDD,
        SiddBlocks,
        "with ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat",
    ),
    "dnd": DatasetInfo(
        "DND",
        1000,
        ("DND/test", "DND"),
        DND,
        DndBoxes,
        "with info.mat and images_srgb/0001.mat to 0050.mat",
    ),
}


def normalized_name(name: str) -> str:
    """Drops case, dashes, underscores and blanks, as in the keys of `BENCHMARKS`.

    >>> normalized_name("RealBlur-J")
    'realblurj'
    """
    return re.sub(r"[-_\s]", "", name.lower())


def find_benchmark(name: str) -> DatasetInfo:
    """Returns the test set of a name in any spelling; raises UserError if there is none."""
    return find_dataset(BENCHMARKS, name)


def find_dataset(datasets: Mapping[str, DatasetInfo], name: str) -> DatasetInfo:
    """Returns the set of a name in any spelling; raises UserError if there is none."""
    try:
        return datasets[normalized_name(name)]
    except KeyError:
        known = ", ".join(dataset.title for dataset in datasets.values())
        raise UserError(f"benchmark {name!r}: is none of {known}") from None


def find_dataset_folder(dataset: DatasetInfo, root: Path) -> Path | None:
    """Returns the first folder below `root` that a set may lie in; None if there is none."""
    folders = (find_folder(root, path) for path in dataset.folders)
    return next((folder for folder in folders if folder), None)


def find_folder(root: Path, path: str) -> Path | None:
    """Returns the folder `path` below `root`, in any spelling of its parts, if there is one.

    Raises:
        UserError: if a folder on the way cannot be listed.
    """
    for part in path.split("/"):
        if not root.is_dir():
            return None
        try:
            folders = sorted(child for child in root.iterdir() if child.is_dir())
        except OSError as error:
            raise UserError(f"{root}: cannot be listed ({one_line(error)})") from error
        matching = [f for f in folders if normalized_name(f.name) == normalized_name(part)]
        if not matching:
            return None
        root = next((folder for folder in matching if folder.name == part), matching[0])
    return root
