"""The paper's training and test sets, and how to find their folders.

Pictures are RGB and decoded when an example is read. DND has no "target" and holds floats.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mprnet_jax.data.layouts import (
    BSD,
    GOPRO,
    HIDE,
    RAIN100,
    RAIN1200,
    RAIN14000,
    SIDD,
    Own,
)
from mprnet_jax.data.matlab import DndBoxes, SiddBlocks
from mprnet_jax.data.pairs import PairFolder, Source
from mprnet_jax.errors import UserError, one_line

PREPARED = "mprnet_pairs"  # folder of the sets that `data.prepared` writes


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a set: its title, its folders below a data root, where to download it."""

    title: str
    num_examples: int  # when complete; 0: not known here
    folders: tuple[str, ...]  # the first that exists is read; case and dashes do not matter
    url: str
    open: Callable[[Path], Source] = PairFolder
    layout: str = "with folders input and target"
    own: Own | None = None  # is read where the folders do not hold the set


RAIN_URL = "https://github.com/kuijiang94/MSPFN (collects Rain13K and its five test sets)"
GOPRO_URL = "https://seungjunnah.github.io/Datasets/gopro"
HIDE_URL = "https://github.com/joanshen0508/HA_deblur"
REALBLUR_URL = "https://cg.postech.ac.kr/research/realblur"
BSD_URL = "https://github.com/zzh-tech/ESTRNN"
SIDD_URL = "https://abdokamel.github.io/sidd"
DND_URL = "https://noise.visinf.tu-darmstadt.de"

GOPRO_NAMES = ("GOPRO_Large", "GoPro")
RAIN14000_NAMES = ("rainy_image_dataset", "Rain1400")
BSD_NAMES = ("BSD", "BSD_1ms8ms", "BSD_2ms16ms", "BSD_3ms24ms")
SIDD_NAMES = ("SIDD_Medium_Srgb", "SIDD/SIDD_Medium_Srgb")


def _realblur(kind: str, split: str) -> Own:
    return Own(("RealBlur",), list_file=f"RealBlur_{kind}_{split}_list.txt")


TRAINING_SETS = {
    # The paper counts one more pair, which was broken (swz30/MPRNet, issue 74).
    "rain13k": DatasetInfo("Rain13K", 13711, ("train", "Rain13K/train", "Rain13K"), RAIN_URL),
    "gopro": DatasetInfo(
        "GoPro", 2103, ("GoPro/train",), GOPRO_URL, own=Own(GOPRO_NAMES, (GOPRO,), ("train",))
    ),
    "realblurj": DatasetInfo(
        "RealBlur-J", 3758, ("RealBlur_J/train",), REALBLUR_URL, own=_realblur("J", "train")
    ),
    "realblurr": DatasetInfo(
        "RealBlur-R", 3758, ("RealBlur_R/train",), REALBLUR_URL, own=_realblur("R", "train")
    ),
    "bsd": DatasetInfo("BSD", 0, ("BSD/train",), BSD_URL, own=Own(BSD_NAMES, (BSD,), ("train",))),
    "sidd": DatasetInfo(
        "SIDD",
        320,
        ("SIDD/train",),
        SIDD_URL,
        layout="with SIDD-Medium's scene folders",
        own=Own(SIDD_NAMES, (SIDD,)),
    ),
}
# The paper scores Test100 on 98 pairs (swz30/MPRNet, issue 23).
RAIN_SETS: dict[str, tuple[int, Own | None]] = {
    "Test100": (98, None),
    "Rain100H": (100, Own(("Rain100H",), RAIN100)),
    "Rain100L": (100, Own(("Rain100L",), RAIN100)),
    "Test2800": (
        2800,
        Own(RAIN14000_NAMES, RAIN14000, ("testing", "rain1400")),
    ),
    "Test1200": (1200, Own(("DID-MDN-test", "DID-MDN-datasets"), (RAIN1200,), ("did-mdn-test",))),
}
BENCHMARKS = {
    **{
        title.lower(): DatasetInfo(title, size, (f"test/{title}", title), RAIN_URL, own=own)
        for title, (size, own) in RAIN_SETS.items()
    },
    "gopro": DatasetInfo(
        "GoPro", 1111, ("GoPro/test",), GOPRO_URL, own=Own(GOPRO_NAMES, (GOPRO,), ("test",))
    ),
    "hide": DatasetInfo(
        "HIDE", 2025, ("HIDE/test", "HIDE"), HIDE_URL, own=Own(("HIDE_dataset", "HIDE"), (HIDE,))
    ),
    "realblurj": DatasetInfo(
        "RealBlur-J",
        980,
        ("RealBlur_J/test", "RealBlur_J"),
        REALBLUR_URL,
        own=_realblur("J", "test"),
    ),
    "realblurr": DatasetInfo(
        "RealBlur-R",
        980,
        ("RealBlur_R/test", "RealBlur_R"),
        REALBLUR_URL,
        own=_realblur("R", "test"),
    ),
    "sidd": DatasetInfo(
        "SIDD",
        1280,
        ("SIDD/test", "SIDD"),
        SIDD_URL,
        SiddBlocks,
        "with ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat",
    ),
    "dnd": DatasetInfo(
        "DND",
        1000,
        ("DND/test", "DND"),
        DND_URL,
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


def find_own_folders(own: Own, root: Path) -> list[Path]:
    """Returns the folders at or below `root` that may hold a set as its authors hand it out."""
    below = [find_folder(root, name) for name in own.names]
    names = [normalized_name(Path(name).name) for name in own.names]
    # A list names its pairs itself, so that it may lie anywhere.
    itself = own.list_file or normalized_name(root.name) in names
    return [*filter(None, below), *([root] if itself else [])]


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
