"""Random-access sources of image pairs.

A source is a sequence of dicts of images, uint8 [H, W, 3] RGB: "degraded" and "target" of one size,
or "target" alone where the degradation is synthetic.
"""

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError

Example = dict[str, np.ndarray]

EXTENSIONS = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 89_478_485  # as Pillow's own limit: 256 MiB in RGB
TARGET_NAMES = ("target", "groundtruth")


def decode(file: Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """Reads a PNG or JPEG file as uint8 RGB [H, W, 3]; alpha is dropped, grey is repeated.

    Errors call it `name`, by default its path.

    Raises:
        UserError: if the file is no whole picture of one of these formats with 8 bits a channel.
    """
    name = name or str(file)
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as picture:
            # Pillow only warns, up to twice as many; filters of warnings are not for threads.
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(f"{name}: has more than {MAX_PIXELS} pixels; cut or remove it")
            # Pillow would cut colours of 16 bits to 8 unasked.
            deep = picture.format == "PNG" and png_depth_and_type(picture)[0] == 16
            if deep or picture.mode not in ("L", "LA", "P", "RGB", "RGBA"):
                raise UserError(
                    f"{name}: has 16 bits a channel, or mode {picture.mode}; convert it to "
                    "8-bit RGB, or remove it"
                )
            return np.asarray(picture.convert("RGB"))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the damage leads to
        raise UserError(f"{name}: cannot be read as a picture ({error}); replace it") from error


def header_size(file: Path | BinaryIO, name: str | None = None) -> tuple[int, int]:
    """Height and width of a PNG or JPEG file as `decode` gives it, from its header.

    Raises:
        UserError: if it is no such file.
    """
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as picture:
            return picture.height, picture.width
    except Exception as error:  # as in `decode`
        raise UserError(f"{name or file}: cannot be read as a picture ({error})") from error


def png_depth_and_type(picture: Image.Image) -> tuple[int, int]:
    """Bits a channel, and PNG's number for the colour type, of a PNG file not decoded yet."""
    position = picture.fp.tell()
    picture.fp.seek(24)  # in the header, after the size
    depth, colour_type = picture.fp.read(2)
    picture.fp.seek(position)
    return depth, colour_type


def natural_key(name: str) -> list:
    """A key for `sorted` by which numbers in names count as numbers.

    >>> sorted(["rain-10", "rain-9"], key=natural_key)
    ['rain-9', 'rain-10']
    """
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Those that are not hidden, in natural order."""
    shown = (path for path in paths if not path.name.startswith("."))
    return sorted(shown, key=lambda path: natural_key(str(path)))


def list_pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by stem, in natural order; hidden ones, as Macs make, are none.

    Raises:
        UserError: if two pictures have the same stem.
    """
    pictures: dict[str, Path] = {}
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    for path in in_order(files):
        if path.stem in pictures:
            raise UserError(f"{path}: {pictures[path.stem].name} has the same stem; remove one")
        pictures[path.stem] = path
    return pictures


class PairFolder(Sequence[Example]):
    """A folder with pictures in `input` and, under the same stems, in `target` or `groundtruth`."""

    def __init__(self, folder: Path | str):
        folder = Path(folder)
        inputs = folder / "input"
        targets = next((folder / n for n in TARGET_NAMES if (folder / n).is_dir()), None)
        if not inputs.is_dir() or targets is None:
            raise UserError(f"{folder}: must hold the folders input and target")
        self.folder = folder
        degraded, restored = list_pictures(inputs), list_pictures(targets)
        for here, there, place, other in (
            (degraded, restored, inputs, targets),
            (restored, degraded, targets, inputs),
        ):
            if alone := [path.name for stem, path in here.items() if stem not in there]:
                shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
                raise UserError(
                    f"{place}: {len(alone)} of {len(here)} pictures have no partner in {other} "
                    f"({shown}); pairs share the name before the extension"
                )
        if not degraded:
            raise UserError(f"{inputs}: holds no {', '.join(EXTENSIONS)} pictures")
        self.names = list(degraded)
        self.paths = [(degraded[name], restored[name]) for name in self.names]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        input_path, target_path = self.paths[index]
        degraded, target = decode(input_path), decode(target_path)
        if degraded.shape != target.shape:
            raise UserError(
                f"{input_path}: is {degraded.shape[1]}x{degraded.shape[0]}, but its target "
                f"{target_path} is {target.shape[1]}x{target.shape[0]}; pairs must have one size"
            )
        return {"degraded": degraded, "target": target}

    def size_of(self, index: int) -> tuple[int, int]:
        """Height and width of an example, without decoding it."""
        return header_size(self.paths[index][0])


class Sorted(Sequence[Example]):
    """The examples of another source in the natural order of their names."""

    def __init__(self, source: Sequence[Example]):
        names = list(source.names)
        self._source = source
        self._order = sorted(range(len(names)), key=lambda index: natural_key(names[index]))
        self.names = [names[index] for index in self._order]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._order[index]]


class Cached(Sequence[Example]):
    """Keeps the decoded examples of another source while this leaves the machine `floor` bytes.

    What the machine has left is looked at each time, for others keep examples as well: reading
    processes, and further training processes on the same machine.
    """

    def __init__(self, source: Sequence[Example], floor: int):
        self._source = source
        self._floor = floor
        self._kept: dict[int, Example] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> Sequence[str]:
        """Of the other source's examples."""
        return self._source.names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        if index in self._kept:
            return self._kept[index]
        example = self._source[index]
        size = sum(image.nbytes for image in example.values())
        with self._lock:
            if index not in self._kept and memory.available_host_bytes() - size >= self._floor:
                self._kept[index] = example
        return example

    def __getstate__(self) -> tuple:
        return self._source, self._floor

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)
