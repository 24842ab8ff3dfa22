"""Random-access sources of image pairs.

A source is a sequence of examples, dicts of images [H, W, 3] RGB: "degraded" and "target" of the
same size, or "target" alone where the degradation is synthetic. All images of a source have one
type: uint8, or uint16 or floats in [0, 1] if some of its pictures are so deep.
"""

import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import natsort
import numpy as np
from absl import logging

from mprnet_jax.data.degradations import Degradation
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.pixels import to_dtype, to_uint8
from mprnet_jax.imageio.rgb import EXTENSIONS, MAYBE_DEEP, decode, header_dtype, header_size
from mprnet_jax.threads import parallel_map

Example = dict[str, np.ndarray]

# Names of the two folders of pairs; the last are those of GoPro's authors.
LAYOUTS = (("input", "target"), ("input", "groundtruth"), ("blur", "sharp"))
# What the rain sets' authors write before the name that a pair shares: rain-001, norain-001.
PREFIX = re.compile(r"(no)?rain[-_]?(?=.)", re.IGNORECASE)
MAX_LISTED = 5  # file names in an error message


class Source(Protocol):
    """A random-access sequence of examples, which raises UserError where one cannot be read.

    A source whose images are not uint8 has their type as `dtype`; see `dtype_of`.
    """

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


def dtype_of(source: Source) -> np.dtype:
    """Returns the type of the images of a source."""
    return getattr(source, "dtype", np.dtype(np.uint8))


def deepest(paths: Iterable[Path]) -> np.dtype:
    """Returns the type that holds the pixels of all pictures, from their headers."""
    maybe = [path for path in paths if path.suffix.lower() in MAYBE_DEEP]
    return deepest_of(parallel_map(header_dtype, maybe))


def deepest_of(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Returns the type that holds images of all these types; uint8 if there are none."""
    dtypes = set(dtypes)
    if any(dtype.kind == "f" for dtype in dtypes):
        return np.dtype(np.float32)
    return np.dtype(np.uint16 if np.dtype(np.uint16) in dtypes else np.uint8)


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


def shorten(names: Sequence[str]) -> str:
    """Joins the first few names for an error message.

    >>> shorten(["1.png", "2.png"])
    '1.png, 2.png'
    """
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")


class PairFolder:
    """A folder with pictures in `input` and, under the same stems, in `target` or `groundtruth`.

    Names of the rain sets' authors, rain-001 and norain-001, are known too, and the layout of
    GoPro's: folders `blur` and `sharp`, in a folder for each scene.
    """

    paths: list[tuple[Path, Path]]  # of the degraded and the clean pictures
    names: list[str]
    dtype: np.dtype  # of all images

    def __init__(self, folder: Path | str):
        """Lists the pairs; raises UserError unless every picture has a partner."""
        self.folder = Path(folder)
        scenes: list[Path] = []
        if not (self.folder / "input").is_dir():
            scenes = [path.parent for path in natural_order(self.folder.glob("*/blur"))]
        if scenes:
            parts = [PairFolder(scene) for scene in scenes]
            self.paths = [pair for part in parts for pair in part.paths]
            self.names = [f"{part.folder.name}-{name}" for part in parts for name in part.names]
            self.dtype = deepest_of(part.dtype for part in parts)
        else:
            self.paths = list_pairs(self.folder)
            self.names = [unicodedata.normalize("NFC", path.stem) for path, _ in self.paths]
            self.dtype = deepest(path for pair in self.paths for path in pair)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return read_pair(*self.paths[index], self.dtype)

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example, from the header of its input."""
        return header_size(self.paths[index][0])


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Returns the degraded and the clean picture of each pair of a folder.

    Raises:
        UserError: if there are none, or a picture has no partner.
    """
    folders = ((folder / inputs, folder / targets) for inputs, targets in LAYOUTS)
    both = next((pair for pair in folders if all(map(Path.is_dir, pair))), None)
    if both is None:
        raise UserError(f"{folder}: must hold the folders input and target")
    degraded, clean = map(list_pictures, both)
    if degraded.keys() != clean.keys():
        degraded, clean = without_prefixes(degraded), without_prefixes(clean)
    check_partners(both[0], degraded, both[1], clean)
    check_partners(both[1], clean, both[0], degraded)
    if not degraded:
        raise UserError(f"{both[0]}: holds no {', '.join(EXTENSIONS)} pictures")
    return [(degraded[name], clean[name]) for name in degraded]


def without_prefixes(pictures: Mapping[str, Path]) -> dict[str, Path]:
    """Returns pictures by the part of their stems that rainy and clean ones share.

    Unchanged if that is not unique.
    """
    shared = {PREFIX.sub("", stem, count=1): path for stem, path in pictures.items()}
    return shared if len(shared) == len(pictures) else dict(pictures)


class PhotoFolder:
    """A folder of clean pictures, "target" only; `data.augment.RandomPatch` degrades patches.

    Pictures are rounded to 8 bits, as degradations are those of 8-bit cameras.
    """

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
        return {"target": to_uint8(decode(self.paths[index]))}


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


def read_pair(degraded_path: Path, target_path: Path, dtype: np.dtype) -> Example:
    """Reads a pair as images of a type.

    Raises:
        UserError: if a picture cannot be read, or their sizes differ.
    """
    degraded, target = (to_dtype(decode(path), dtype) for path in (degraded_path, target_path))
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
        self._source, self.dtype = source, dtype_of(source)
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
        self._source, self.dtype = source, dtype_of(source)
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
