"""Sets of pairs as TFDS prepares them: array_record files, read at random and without TensorFlow.

Pictures keep the bytes of their files; pieces cut out of them are PNG again, or plain arrays, which
need no decoding. A prepared set is a folder DATA_DIR/mprnet_pairs/NAME/1.0.0.
"""

import contextlib
import functools
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from mprnet_jax.data.datasets import PREPARED
from mprnet_jax.data.pairs import Example, PairFolder, decode, header_size
from mprnet_jax.errors import UserError
from mprnet_jax.threads import parallel_map

VERSION = "1.0.0"

# From an example and its number in the set to the pieces of it that are stored.
Cut = Callable[[Example, int], Sequence[Example]]


class Prepared(Sequence[Example]):
    """One split of a prepared set, in TFDS's order."""

    def __init__(self, folder: Path | str, split: str):
        """`folder` is DATA_DIR/mprnet_pairs/NAME; raises UserError if it holds no such split."""
        folder = Path(folder) / VERSION
        if not (folder / "dataset_info.json").is_file():
            raise UserError(
                f"{folder}: holds no prepared set; make it with python -m mprnet_jax.prepare, or "
                "give --config.data.source=folders for folders of pairs"
            )
        builder = tfds.builder_from_directory(folder)
        if split not in builder.info.splits:
            raise UserError(
                f"{folder}: has no split {split}, only {', '.join(builder.info.splits)}"
            )
        encoded = (
            f for f in builder.info.features.items() if isinstance(f[1], tfds.features.Image)
        )
        decoders = {role: tfds.decode.SkipDecoding() for role, _ in encoded}
        self.folder = folder
        self._records = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        name = record.pop("name").decode()
        return {
            role: _array(image, f"{self.folder}, {name}, {role}") for role, image in record.items()
        }

    def size_of(self, index: int) -> tuple[int, int]:
        """Height and width of an example, without decoding it."""
        image = self._record(index)["degraded"]
        if isinstance(image, bytes):
            return header_size(io.BytesIO(image), f"{self.folder}, record {index}")
        return image.shape[:2]

    def _record(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._records[index]
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"{self.folder}: its record {index} is damaged ({error}); prepare the set anew"
            ) from error

    @property
    def names(self) -> "Names":
        """The examples' names, each read when it is asked for."""
        return Names(self)


class Names(Sequence[str]):
    """The names of a prepared split's examples."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared

    def __len__(self) -> int:
        return len(self._prepared)

    def __getitem__(self, index: int) -> str:
        try:
            return self._prepared._record(index)["name"].decode()
        except UserError:
            return f"record {index}"


def _array(image: np.ndarray | bytes, name: str) -> np.ndarray:
    return decode(io.BytesIO(image), name) if isinstance(image, bytes) else image


class Info(tfds.core.DatasetInfo):
    """What TFDS knows of a set, which no one has published."""

    def initialize_from_bucket(self) -> None:
        """Does not look for it elsewhere; TFDS would leave a folder behind for each try."""


class Pairs(tfds.core.GeneratorBasedBuilder):
    """Writes a set; each of its splits comes from a function that yields what is stored."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        name: str,
        records: Mapping[str, Callable[[], Iterator[dict]]],
        image: tfds.features.FeatureConnector,
        roles: Sequence[str],
        data_dir: Path,
    ):
        self.name = name
        self.records = records
        self.stored = {"name": tfds.features.Text(), **dict.fromkeys(roles, image)}
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return Info(builder=self, features=tfds.features.FeaturesDict(self.stored))

    def _split_generators(self, _: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self.records}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for record in self.records[split]():
            yield record["name"], record


def write(
    data_dir: Path | str,
    name: str,
    splits: Mapping[str, Sequence[Example]],
    *,
    raw: bool = False,
    cut: Cut | None = None,
) -> Path:
    """Prepares a set from sources that have `.names`, with a progress bar for each split.

    Args:
        data_dir: the folder of all prepared sets.
        name: of this one.
        splits: the sources, by name of the split; all alike.
        raw: stores plain arrays; so are floats in any case, which no picture holds.
        cut: cuts each example of the split "train" into pieces.

    Returns:
        The set's folder, for `Prepared`.

    Raises:
        UserError: if the set is there already or cannot be written, and for the first example that
            cannot be read; then nothing is left behind.
    """
    example = next(iter(splits.values()))[0]
    dtype = example["degraded"].dtype
    if raw := raw or dtype != np.uint8:
        image = tfds.features.Tensor(shape=(None, None, 3), dtype=dtype, encoding="bytes")
    else:
        image = tfds.features.Image(shape=(None, None, 3))
    records = {
        split: functools.partial(
            _records, source, cut if split == "train" else None, raw, f"{name} {split}"
        )
        for split, source in splits.items()
    }
    tfds.disable_progress_bar()  # it does not know how much there will be; ours does
    builder = Pairs(name, records, image, tuple(example), Path(data_dir) / PREPARED)
    folder = Path(builder.data_path)
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it to prepare the set anew")
    for left in folder.parent.glob("incomplete.*"):  # TFDS's, of a run that was killed
        shutil.rmtree(left)
    # TFDS would speak of a download, and wants a folder for it.
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        try:
            builder.download_and_prepare(download_dir=downloads)
        except BaseException as error:
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
            if isinstance(error, OSError):
                raise UserError(f"{folder}: cannot be prepared ({error})") from error
            raise
    return folder.parent


def _records(
    source: Sequence[Example], cut: Cut | None, raw: bool, description: str
) -> Iterator[dict]:
    """What is stored of a source, in order; threads read, cut and encode."""

    def work(index: int) -> list[dict]:
        example, name = source[index], source.names[index]
        if cut:
            pieces = cut(example, index)
            names = [f"{name}_{number:03d}" for number in range(len(pieces))]
        else:
            pieces, names = [example], [name]
        if raw:
            return [{"name": n, **piece} for n, piece in zip(names, pieces)]
        if not cut and isinstance(source, PairFolder):
            paths = zip(("degraded", "target"), source.paths[index])
            return [{"name": name, **{role: path.read_bytes() for role, path in paths}}]
        return [{"name": n, **_encoded(piece)} for n, piece in zip(names, pieces)]

    for records in tqdm(parallel_map(work, len(source)), description, len(source), unit="image"):
        yield from records


def _encoded(example: Example) -> dict[str, bytes]:
    """An example as PNG files."""
    return {
        role: cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        for role, image in example.items()
    }


def overlapping_pieces(size: int) -> Cut:
    """Cuts images into squares that overlap by half, or more where they must to end at the border.

    Every square of half the size lies in one of them. Sides shorter than `size` are kept.
    """

    def starts(length: int) -> list[int]:
        last = max(length - size, 0)
        count = -(-last // (size // 2)) + 1
        return [round(start) for start in np.linspace(0, last, count)]

    def cut(example: Example, _: int) -> list[Example]:
        height, width = example["degraded"].shape[:2]
        return [
            {role: image[y : y + size, x : x + size] for role, image in example.items()}
            for y in starts(height)
            for x in starts(width)
        ]

    return cut


def random_patches(count: int, size: int, seed: int) -> Cut:
    """Cuts `count` random squares out of each image, a function of the seed and its number."""

    def cut(example: Example, index: int) -> list[Example]:
        random = np.random.default_rng((seed, index))
        height, width = example["degraded"].shape[:2]
        if min(height, width) < size:
            raise UserError(f"picture {index + 1} of {width}x{height} is smaller than its patches")
        ys = random.integers(0, height - size, count, endpoint=True)
        xs = random.integers(0, width - size, count, endpoint=True)
        return [
            {role: image[y : y + size, x : x + size] for role, image in example.items()}
            for y, x in zip(ys, xs)
        ]

    return cut
