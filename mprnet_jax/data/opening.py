"""Opens sets: folders of pairs, the paper's sets in the layout of its authors, prepared sets."""

from pathlib import Path

from mprnet_jax import paths
from mprnet_jax.data.archives import find_archive
from mprnet_jax.data.datasets import (
    BENCHMARKS,
    PREPARED,
    TRAINING_SETS,
    DatasetInfo,
    find_benchmark,
    find_dataset,
    find_dataset_folder,
    find_own_folders,
    normalized_name,
)
from mprnet_jax.data.matlab import SiddBlocks
from mprnet_jax.data.pairing import NoPairs
from mprnet_jax.data.pairs import PairFolder, Source
from mprnet_jax.errors import UserError


def open_folder(folder: Path) -> Source:
    """Opens a folder of pairs, in the layout of any of the paper's sets but DND.

    Raises:
        UserError: if the folder holds no pairs.
    """
    if not (folder / "input").is_dir() and any(folder.glob("Validation*BlocksSrgb.mat")):
        return SiddBlocks(folder)
    return PairFolder(folder)


def open_prepared(root: Path, name: str, split: str) -> Source:
    """Opens a split of a prepared set below a data root.

    Raises:
        UserError: if there is no such set, or it has no such split.
    """
    from mprnet_jax.data.prepared import Prepared  # importing TFDS takes seconds

    return Prepared(root / PREPARED / name, split)


def open_benchmark(name: str, root: Path | str) -> Source:
    """Opens a test set.

    Args:
        name: of the set, in any spelling.
        root: a folder that holds the set's own folders, or sets prepared from them; the latter may
            be in a bucket.

    Raises:
        UserError: if the name is unknown, the folder is missing, or it lacks what the set needs.
    """
    benchmark, key = find_benchmark(name), normalized_name(name)
    if paths.is_bucket(root):  # where sets can only be prepared ones
        return open_prepared(paths.anywhere(root), key, "test")
    root = paths.absolute(root)
    if not (root / PREPARED / key).is_dir():
        return open_dataset(benchmark, root)
    from mprnet_jax.data.prepared import NotPrepared

    try:
        return open_prepared(root, key, "test")
    except NotPrepared as error:  # the set may have been prepared for training only
        try:
            return open_dataset(benchmark, root)
        except UserError:
            raise error from None


def open_splits(name: str, *roots: Path | str) -> dict[str, Source]:
    """Opens the splits of a set that exist below one of the roots: "train", "test" or both.

    Raises:
        NoPairs: if none exists.
        UserError: as `open_benchmark` does.
    """
    find_dataset({**TRAINING_SETS, **BENCHMARKS}, name)  # raises if unknown
    key = normalized_name(name)
    splits: dict[str, Source] = {}
    missing: list[NoPairs] = []
    for split, sets in (("train", TRAINING_SETS), ("test", BENCHMARKS)):
        for root in map(paths.absolute, roots):
            if key in sets and split not in splits:
                try:
                    splits[split] = open_dataset(sets[key], root)
                except NoPairs as error:
                    missing.append(error)
    if not splits:
        raise missing[0]
    return splits


def open_dataset(dataset: DatasetInfo, root: Path) -> Source:
    """Opens a set from its own folder below `root`, or from that of its authors.

    Raises:
        NoPairs: if it is in neither.
        UserError: if it is there, but a part of it is missing or damaged.
    """
    if folder := find_dataset_folder(dataset, root):
        try:
            return dataset.open(folder)
        except NoPairs:
            pass
    own = ""
    if dataset.own:
        for folder in find_own_folders(dataset.own, root):
            try:
                return PairFolder(folder, dataset.own)
            except NoPairs:
                continue
        own = f", nor {dataset.own.list_file or dataset.own.names[0]} as its authors hand it out"
    archive = find_archive([dataset], root) if root.is_dir() else None
    remedy = (
        f"unpack {archive[0].name}, or prepare it with python -m mprnet_jax.prepare"
        if archive
        else f"download it from {dataset.url} and lay it out as MPRNet's authors do"
    )
    raise NoPairs(
        f"{root}: has no folder {dataset.folders[0]} {dataset.layout}{own}, for {dataset.title}; "
        f"{remedy}"
    )
