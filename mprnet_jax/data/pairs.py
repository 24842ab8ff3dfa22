"""Random-access sources of image pairs.

A source is a sequence of examples, dicts of images uint8 [H, W, 3] RGB: "degraded" and "target" of
the same size, or "target" alone where the degradation is synthetic.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import natsort
import numpy as np

from mprnet_jax.data.degradations import Degradation
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.rgb import EXTENSIONS, decode, header_size

Example = dict[str, np.ndarray]

TARGET_NAMES = ("target", "groundtruth")
MAX_LISTED = 5  # file names in an error message


class Source(Protocol):
    """A random-access sequence of examples, which raises UserError where one cannot be read."""

    @property
    def names(self) -> Sequence[str]:
        """The examples' names."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@runtime_checkable
class SizedSource(Source, Protocol):
    """A source that knows the sizes of its images without decoding them."""

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example; raises UserError where they cannot be read."""


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths so that numbers in them count as numbers; leaves out hidden files.

    >>> [path.name for path in natural_order(map(Path, ["rain-10", "rain-9", ".rain-8"]))]
    ['rain-9', 'rain-10']
    """
    return natsort.natsorted((path for path in paths if not path.name.startswith(".")), key=str)


def list_pictures(folder: Path) -> dict[str, Path]:
    """Returns the pictures of a folder by stem, in natural order and without hidden files.

    Raises:
        UserError: if two pictures have the same stem, or the folder cannot be listed.
    """
    pictures: dict[str, Path] = {}
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file()]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({one_line(error)})") from error
    for path in natural_order(files):
        if path.stem in pictures:
            raise UserError(f"{path}: {pictures[path.stem].name} has the same stem; remove one")
        pictures[path.stem] = path
    return pictures


def shorten(names: Sequence[str]) -> str:
    """Joins the first few names for an error message.

    >>> shorten(["1.png", "2.png"])
    '1.png, 2.png'
    """
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")


class PairFolder:
    """A folder with pictures in `input` and, under the same stems, in `target` or `groundtruth`."""

    def __init__(self, folder: Path | str):
        """Lists the pairs; raises UserError unless every picture has a partner."""
        folder = Path(folder)
        inputs = folder / "input"
        targets = next((folder / n for n in TARGET_NAMES if (folder / n).is_dir()), None)
        if not inputs.is_dir() or targets is None:
            raise UserError(f"{folder}: must hold the folders input and target")
        self.folder = folder
        degraded, clean = list_pictures(inputs), list_pictures(targets)
        check_partners(inputs, degraded, targets, clean)
        check_partners(targets, clean, inputs, degraded)
        if not degraded:
            raise UserError(f"{inputs}: holds no {', '.join(EXTENSIONS)} pictures")
        self.names = list(degraded)
        self.paths = [(degraded[name], clean[name]) for name in self.names]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return read_pair(*self.paths[index])

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example, from the header of its input."""
        return header_size(self.paths[index][0])


class PhotoFolder:
    """A folder of clean pictures, "target" only; `data.augment.RandomPatch` degrades patches."""

    def __init__(self, folder: Path | str):
        """Lists the pictures; raises UserError if there are none."""
        folder = Path(folder)
        pictures = list_pictures(folder)
        if not pictures:
            raise UserError(f"{folder}: holds no {', '.join(EXTENSIONS)} pictures")
        self.names, self.paths = list(pictures), list(pictures.values())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return {"target": decode(self.paths[index])}


class DegradedPhotos:
    """Clean photos of another source with one fixed degradation each, drawn from a seed."""

    def __init__(self, photos: Source, degrade: Degradation, seed: int = 0):
        self._photos, self._degrade, self._seed = photos, degrade, seed
        self.names = photos.names

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Example:
        target = self._photos[index]["target"]
        degraded = self._degrade(target, np.random.default_rng((self._seed, index)))
        return {"degraded": degraded, "target": target}


def read_pair(degraded_path: Path, target_path: Path) -> Example:
    """Reads a pair; raises UserError if a picture cannot be read, or their sizes differ."""
    degraded, target = decode(degraded_path), decode(target_path)
    if degraded.shape != target.shape:
        raise UserError(
            f"{degraded_path}: is {degraded.shape[1]}x{degraded.shape[0]}, but its target "
            f"{target_path} is {target.shape[1]}x{target.shape[0]}; pairs must have one size"
        )
    return {"degraded": degraded, "target": target}


def check_partners(
    folder: Path, pictures: Mapping[str, Path], other_folder: Path, others: Mapping[str, Path]
) -> None:
    """Raises UserError if pictures of a folder, given by stem, have no partner in the other."""
    alone = [path.name for stem, path in pictures.items() if stem not in others]
    if alone:
        raise UserError(
            f"{folder}: {len(alone)} of {len(pictures)} pictures have no partner in {other_folder} "
            f"({shorten(alone)}); pairs share the name before the extension"
        )


class Sorted:
    """The examples of another source in the natural order of their names."""

    def __init__(self, source: Source):
        names = list(source.names)
        self._source = source
        self._order = natsort.index_natsorted(names)
        self.names = [names[index] for index in self._order]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._order[index]]


class Cached:
    """Keeps decoded examples of another source in memory, as long as enough memory remains.

    At least `min_available_bytes` are left available to everything else on the machine.
    The available memory is measured for each example, because other processes keep examples too:
    worker processes, and further training processes on the same machine.
    """

    def __init__(self, source: Source, min_available_bytes: int):
        self._source = source
        self._min_available_bytes = min_available_bytes
        self._kept: dict[int, Example] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> Sequence[str]:
        """The names of the other source."""
        return self._source.names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        if index in self._kept:
            return self._kept[index]
        example = self._source[index]
        size = sum(image.nbytes for image in example.values())
        with self._lock:
            if (
                index not in self._kept
                and memory.available_host_bytes() - size >= self._min_available_bytes
            ):
                self._kept[index] = example
        return example

    def __reduce__(self) -> tuple:
        # Worker processes keep examples of their own.
        return Cached, (self._source, self._min_available_bytes)
