"""Prepared sets: pairs as array_record files, written and read by TFDS without TensorFlow.

PNG and JPEG pictures keep the bytes of their files where any reader gives the same pixels; others,
and pieces cut out of pictures, are stored as PNG. Raw sets store all images as arrays, which need
no decoding. A prepared set is a folder DATA_DIR/mprnet_pairs/NAME/1.0.0.
"""

import contextlib
import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError  # comes with TFDS
from tqdm import tqdm

from mprnet_jax import paths
from mprnet_jax.compat.tfds import local_info, remove_incomplete
from mprnet_jax.data.cutting import Cut
from mprnet_jax.data.datasets import PREPARED
from mprnet_jax.data.fetching import on_disk
from mprnet_jax.data.pairs import Converted, Example, PairFolder, Source, deepest_of, dtype_of
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.pixels import to_dtype
from mprnet_jax.imageio.rgb import decode, header_size, is_plain
from mprnet_jax.threads import parallel_map_or_error

VERSION = "1.0.0"

# What array_record and TFDS raise for damaged files, found by mutating them.
RECORD_ERRORS = (RuntimeError, ValueError, OSError)
INFO_ERRORS = (ParseError, ValueError, OSError)


class NotPrepared(UserError):
    """A folder holds no prepared set, or the set has no such split."""


class Prepared:
    """One split of a prepared set, in the order in which TFDS has shuffled it."""

    def __init__(self, folder: Path | str, split: str):
        """Opens a split.

        Args:
            folder: DATA_DIR/mprnet_pairs/NAME; DATA_DIR may be the address of a bucket.
            split: "train" or "test".

        Raises:
            NotPrepared: if the folder holds no prepared set, or the set has no such split.
            UserError: if the set is damaged, or the folder's path is no UTF-8.
        """
        folder = paths.anywhere(folder, VERSION)
        paths.check_is_text(folder)
        if not paths.exists(folder / "dataset_info.json"):
            raise NotPrepared(
                f"{folder}: holds no prepared set; make it with python -m mprnet_jax.prepare, or "
                "give --config.data.source=folders for folders of pairs"
            )
        try:
            builder = tfds.builder_from_directory(on_disk(folder, split))
        except INFO_ERRORS as error:
            raise UserError(
                f"{folder}: its description is damaged ({one_line(error)}); prepare the set anew"
            ) from error
        if split not in builder.info.splits:
            raise NotPrepared(
                f"{folder}: has no split {split}, only {', '.join(builder.info.splits)}"
            )
        decoders = {
            role: tfds.decode.SkipDecoding()
            for role, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        self.folder = folder
        self.dtype = np.dtype(builder.info.features["degraded"].np_dtype)
        self._names: dict[int, str] = {}  # of the records read so far
        self._records = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self.record(index)
        name = self._names[index] = record.pop("name").decode()
        return {
            role: to_dtype(_decoded(image, f"{self.folder}, {name}, {role}"), self.dtype)
            for role, image in record.items()
        }

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example without decoding it."""
        image = self.record(index)["degraded"]
        if isinstance(image, bytes):
            return header_size(io.BytesIO(image), f"{self.folder}, record {index}")
        return image.shape[:2]

    def record(self, index: int) -> dict[str, Any]:
        """Returns a stored record: "name" as bytes, and images as arrays or bytes of files."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._records[index]
        except RECORD_ERRORS as error:
            raise UserError(
                f"{self.folder}: record {index} is damaged ({one_line(error)}); "
                "prepare the set anew"
            ) from error

    @property
    def names(self) -> "Names":
        """The examples' names.

        A name is stored in its record, so reading all names of a split reads the whole split.
        """
        return Names(self)

    def name_of(self, index: int) -> str:
        """Returns the name of an example, or "record INDEX" where its record is damaged."""
        if index not in self._names:
            try:
                self._names[index] = self.record(index)["name"].decode()
            except UserError:
                return f"record {index}"
        return self._names[index]


class Names(Sequence[str]):
    """The names of a prepared split's examples."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared

    def __len__(self) -> int:
        return len(self._prepared)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # has no slices
        return self._prepared.name_of(index)


def _decoded(image: np.ndarray | bytes, name: str) -> np.ndarray:
    return decode(io.BytesIO(image), name) if isinstance(image, bytes) else image


class Pairs(tfds.core.GeneratorBasedBuilder):
    """Writes a set, whose splits are given as functions that yield their records."""

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
        return local_info(self, tfds.features.FeaturesDict(self.stored))

    def _split_generators(self, _: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self.records}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for record in self.records[split]():
            yield record["name"], record


def write_prepared(
    data_dir: Path | str,
    name: str,
    splits: Mapping[str, Source],
    *,
    raw: bool = False,
    cut: Cut | None = None,
    left_out: dict[str, list[str]] | None = None,
) -> Path:
    """Writes a prepared set, with a progress bar for each split.

    Args:
        data_dir: the folder of all prepared sets.
        name: of this set.
        splits: the source of each split. All have the same roles; images are converted to the
            deepest dtype of all splits.
        raw: whether to store arrays. Floats are stored so in any case, as PNG cannot hold them.
        cut: cuts each example of the split "train" into pieces.
        left_out: if given, examples that cannot be read are left out, and a line for each is
            appended to `left_out[split]`. If None, the first one raises.

    Returns:
        The set's folder, for `Prepared`.

    Raises:
        UserError: if the set exists already, which is left as it is; if it cannot be written, an
            example cannot be read, or none of a split can: nothing is left behind then.
    """
    roles = tuple(_first_readable(next(iter(splits.values())), left_out is not None))
    dtype = deepest_of([dtype_of(source) for source in splits.values()])
    if raw := raw or dtype.kind == "f":
        image = tfds.features.Tensor(shape=(None, None, 3), dtype=dtype, encoding="bytes")
        splits = {split: Converted(source, dtype) for split, source in splits.items()}
    else:
        image = tfds.features.Image(shape=(None, None, 3), dtype=dtype)
    records = {
        split: functools.partial(
            _records,
            source,
            cut if split == "train" else None,
            raw,
            dtype,
            f"{name} {split}",
            None if left_out is None else left_out.setdefault(split, []),
        )
        for split, source in splits.items()
    }
    tfds.disable_progress_bar()  # ours knows the number of examples
    paths.check_is_text(paths.absolute(data_dir))
    builder = Pairs(name, records, image, roles, paths.absolute(data_dir, PREPARED))
    folder = Path(builder.data_path)
    if folder.exists():
        raise UserError(f"{folder}: exists already; remove it to prepare the set anew")
    remove_incomplete(folder.parent)
    # TFDS prints messages about a download, and wants a folder for it.
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        try:
            builder.download_and_prepare(download_dir=downloads)
        except OSError as error:
            raise UserError(f"{folder}: cannot be prepared ({error})") from error
        finally:
            with contextlib.suppress(OSError):
                folder.parent.rmdir()  # fails, as it should, unless nothing was written
    return folder.parent


def _records(
    source: Source,
    cut: Cut | None,
    raw: bool,
    dtype: np.dtype,
    description: str,
    left_out: list[str] | None,
) -> Iterator[dict[str, Any]]:
    """Yields the records of a source in order; threads read, cut and encode."""

    def records_of(index: int) -> list[dict[str, Any]]:
        example, name = source[index], as_text(source.names[index])
        pieces: Sequence[Example] = [example]
        names = [name]
        if cut:
            pieces = cut(example, index)
            names = [f"{name}_{number:03d}" for number in range(len(pieces))]
        if raw:
            return [{"name": n, **piece} for n, piece in zip(names, pieces)]
        if not cut and isinstance(source, PairFolder):
            degraded, target = source.paths[index]
            # Pictures side by side have no files of their own.
            files = {} if degraded == target else {"degraded": degraded, "target": target}
            kept = {r: path.read_bytes() for r, path in files.items() if is_plain(path, dtype)}
            return [{"name": name, **_encoded(example), **kept}]
        return [{"name": n, **_encoded(piece)} for n, piece in zip(names, pieces)]

    results = parallel_map_or_error(records_of, range(len(source)))
    for index, result in enumerate(tqdm(results, description, len(source), unit="image")):
        if not isinstance(result, UserError):
            yield from result
        elif left_out is None or len(left_out) + 1 == len(source):
            raise result
        else:
            left_out.append(f"{description}: left out {source.names[index]}: {result}")


def _first_readable(source: Source, lenient: bool) -> Example:
    """Returns the first example, or, if lenient, the first one that can be read.

    Raises:
        UserError: if it cannot be read, or none can.
    """
    last = len(source) - 1 if lenient else 0
    for index in range(last):
        with contextlib.suppress(UserError):
            return source[index]
    return source[last]


def as_text(name: str) -> str:
    """Returns a file's name with bytes that are no UTF-8 escaped, for TFDS stores text only."""
    return name.encode(errors="backslashreplace").decode()


def _encoded(example: Example) -> dict[str, bytes]:
    """Encodes the images of an example as PNG files."""
    return {
        role: cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        for role, image in example.items()
    }
