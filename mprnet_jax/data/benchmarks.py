"""The paper's test sets, read from the folders that people have on disk.

A set is a sequence of examples, dicts of images [H, W, 3], with `.names` beside it: "degraded" and
"target", uint8 RGB. DND has no target and holds floats. Pictures are decoded when asked for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mprnet_jax.data.matlab import DndBoxes, SiddBlocks
from mprnet_jax.data.pairs import Example, PairFolder
from mprnet_jax.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """A test set: what it is called, where it lies below a data root and who publishes it."""

    title: str
    size: int  # number of examples when complete
    folders: tuple[str, ...]  # the first that exists is read; spelt with any case and dashes
    published: str
    open: type = PairFolder
    layout: str = "with folders input and target"


RAIN = "https://github.com/kuijiang94/MSPFN (collects Rain13K and its five test sets)"
REALBLUR = "https://cg.postech.ac.kr/research/realblur"
RAIN_SIZES = {"Test100": 100, "Rain100H": 100, "Rain100L": 100, "Test2800": 2800, "Test1200": 1200}
BENCHMARKS = {
    **{
        title.lower(): Benchmark(title, size, (f"test/{title}", title), RAIN)
        for title, size in RAIN_SIZES.items()
    },
    "gopro": Benchmark(
        "GoPro", 1111, ("GoPro/test",), "https://seungjunnah.github.io/Datasets/gopro"
    ),
    "hide": Benchmark(
        "HIDE", 2025, ("HIDE/test", "HIDE"), "https://github.com/joanshen0508/HA_deblur"
    ),
    "realblurj": Benchmark("RealBlur-J", 980, ("RealBlur_J/test", "RealBlur_J"), REALBLUR),
    "realblurr": Benchmark("RealBlur-R", 980, ("RealBlur_R/test", "RealBlur_R"), REALBLUR),
    "sidd": Benchmark(
        "SIDD",
        1280,
        ("SIDD/test", "SIDD"),
        "https://abdokamel.github.io/sidd",
        open=SiddBlocks,
        layout="with ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat",
    ),
    "dnd": Benchmark(
        "DND",
        1000,
        ("DND/test", "DND"),
        "https://noise.visinf.tu-darmstadt.de",
        open=DndBoxes,
        layout="with info.mat and images_srgb/0001.mat to 0050.mat",
    ),
}


def plain(name: str) -> str:
    """A name without case, dashes, underscores and blanks, as the keys of `BENCHMARKS` are."""
    return re.sub(r"[-_\s]", "", name.lower())


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name, however spelt; raises UserError if there is none."""
    try:
        return BENCHMARKS[plain(name)]
    except KeyError:
        known = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
        raise UserError(f"benchmark {name!r}: is none of {known}") from None


def open_benchmark(name: str, root: Path | str) -> Sequence[Example]:
    """The examples of one test set below the data root; has `.names`.

    Raises:
        UserError: for an unknown name, a missing folder and a folder without what the set needs.
    """
    benchmark = find_benchmark(name)
    for path in benchmark.folders:
        if folder := find_folder(Path(root), path):
            return benchmark.open(folder)
    raise UserError(
        f"{root}: has no folder {benchmark.folders[0]} {benchmark.layout}, for {benchmark.title}; "
        f"it is published at {benchmark.published}"
    )


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
