"""Opens sets: folders of pairs, the paper's sets in the layout of its authors, prepared sets."""

from collections.abc import Mapping
from pathlib import Path

from mprnet_jax import paths
from mprnet_jax.data.datasets import (
    BENCHMARKS,
    PREPARED,
    TRAINING_SETS,
    DatasetInfo,
    SiddScenes,
    find_benchmark,
    find_dataset,
    find_dataset_folder,
    normalized_name,
)
from mprnet_jax.data.matlab import SiddBlocks
from mprnet_jax.data.pairs import PairFolder, Source
from mprnet_jax.errors import UserError


def open_folder(folder: Path) -> Source:
    """Opens a folder of pairs, in the layout of any of the paper's sets but DND.

    Raises:
        UserError: if the folder holds no pairs.
    """
    if not (folder / "input").is_dir():
        if list(folder.glob("Validation*BlocksSrgb.mat")):
            return SiddBlocks(folder)
        if list(folder.glob("*/*NOISY*.PNG")):
            return SiddScenes(folder)
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


def open_splits(name: str, root: Path | str) -> dict[str, Source]:
    """Opens the splits of a set that exist below `root`: "train", "test" or both.

    Raises:
        UserError: as `open_benchmark` does.
    """
    find_dataset({**TRAINING_SETS, **BENCHMARKS}, name)
    key, root = normalized_name(name), paths.absolute(root)
    known = {"train": TRAINING_SETS.get(key), "test": BENCHMARKS.get(key)}
    datasets = {split: dataset for split, dataset in known.items() if dataset}
    existing = [split for split in datasets if _exists(split, datasets, root)]
    # If no split exists, `open_dataset` raises the error.
    return {split: open_dataset(datasets[split], root) for split in existing or datasets}


def open_dataset(dataset: DatasetInfo, root: Path) -> Source:
    """Opens a set from its own folder below `root`; raises UserError if it is not there."""
    folder = find_dataset_folder(dataset, root)
    if folder is None:
        raise UserError(
            f"{root}: has no folder {dataset.folders[0]} {dataset.layout}, for {dataset.title}; "
            f"download it from {dataset.url} and lay it out as MPRNet's authors do"
        )
    return dataset.open(folder)


def _exists(split: str, datasets: Mapping[str, DatasetInfo], root: Path) -> bool:
    """Whether a split has a folder that is not merely the parent of the other split's folder."""
    folder = find_dataset_folder(datasets[split], root)
    others = [find_dataset_folder(d, root) for name, d in datasets.items() if name != split]
    # SIDD's test candidates include SIDD/ itself, which also exists when only SIDD/train does. It
    # counts only if it holds .mat files.
    if folder is None or any(folder.glob("*.mat")):
        return folder is not None
    return not any(other and folder in other.parents for other in others)
