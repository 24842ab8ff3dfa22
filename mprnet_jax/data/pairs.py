"""Random-access sources of image pairs.

A source is a sequence of examples, dicts of images [H, W, 3] RGB: "degraded" and "target" of the
same size, or "target" alone where the degradation is synthetic. All images of a source have one
type: uint8, or uint16 or floats in [0, 1] if some of its pictures are so deep.
"""

import threading
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import natsort
import numpy as np

from mprnet_jax.data.degradations import Degradation
from mprnet_jax.data.layouts import Own, list_own_pairs, list_pairs
from mprnet_jax.data.pairing import list_pictures
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.imageio.pixels import to_dtype, to_uint8
from mprnet_jax.imageio.rgb import EXTENSIONS, MAYBE_DEEP, decode, header_dtype, header_size
from mprnet_jax.threads import parallel_map

__all__ = ["PairFolder", "Source"]

Example = dict[str, np.ndarray]


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


class PairFolder:
    """A folder with pictures in `input` and, under the same stems, in `target` or `groundtruth`.

    Stems may also differ by one rule for all (`pairing.RULES`), and the folder may be laid out as
    the set's own authors do (`layouts.LAYOUTS`): GoPro's, for example, has folders `blur` and
    `sharp` in a folder for each scene.
    """

    paths: list[tuple[Path, Path]]  # of the degraded and the clean pictures
    names: list[str]
    dtype: np.dtype  # of all images

    def __init__(self, folder: Path | str, own: Own | None = None):
        """Lists the pairs.

        Args:
            folder: where they are.
            own: looks in this layout alone, in the folder or below.

        Raises:
            NoPairs: if the folder has no known layout.
            UserError: unless every picture has a partner.
        """
        self.folder = Path(folder)
        pairs = list_own_pairs(self.folder, own) if own else list_pairs(self.folder)
        self.names = [unicodedata.normalize("NFC", pair.name) for pair in pairs]
        self.paths = [(pair.degraded, pair.target) for pair in pairs]
        self.dtype = deepest(dict.fromkeys(path for pair in self.paths for path in pair))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return read_pair(*self.paths[index], self.dtype)

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example, from the header of its input."""
        degraded, target = self.paths[index]
        height, width = header_size(degraded)
        return height, width // 2 if degraded == target else width


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
    """Reads a pair as images of a type; one file is cut into its left and its right half.

    Raises:
        UserError: if a picture cannot be read, or their sizes differ.
    """
    if degraded_path == target_path:
        both = to_dtype(decode(degraded_path), dtype)
        half = both.shape[1] // 2
        if half == 0:
            raise UserError(f"{degraded_path}: must show two pictures side by side")
        return {"degraded": both[:, :half], "target": both[:, -half:]}
    degraded, target = (to_dtype(decode(path), dtype) for path in (degraded_path, target_path))
    if degraded.shape != target.shape:
        raise UserError(
            f"{degraded_path}: is {degraded.shape[1]}x{degraded.shape[0]}, but its target "
            f"{target_path} is {target.shape[1]}x{target.shape[0]}; pairs must have one size"
        )
    return {"degraded": degraded, "target": target}


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


class Converted:
    """Another source with its images as images of another type."""

    def __init__(self, source: Source, dtype: np.dtype):
        self._source, self.dtype = source, dtype

    @property
    def names(self) -> Sequence[str]:
        """The names of the other source."""
        return self._source.names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return {role: to_dtype(image, self.dtype) for role, image in example.items()}


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
