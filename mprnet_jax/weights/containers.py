"""The two layouts of PyTorch's files: an archive, and in older versions bare pickles and numbers.

`opened` returns what a file's pickle describes (`weights.pickles`) and a function that reads a
storage's bytes, so that of a checkpoint with an optimizer only the network is read.
"""

import contextlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mprnet_jax.errors import UserError
from mprnet_jax.weights import pickles
from mprnet_jax.weights.pickles import SAVE_ALONE, Storage

ZIP_MAGIC = b"PK\x03\x04"  # by which PyTorch, too, distinguishes the two formats
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE = 4 * 2**20  # bytes; that of the largest official network has 83 thousand

SIZES = {  # bytes of a number, by the class of its storage
    "ComplexDoubleStorage": 16,
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage"), 1),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "UntypedStorage"), 1),
}

ReadStorage = Callable[[Storage], bytes]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, ReadStorage]]:
    """Opens a file: yields what it holds, and a function that reads the bytes of a storage."""
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            with zipfile.ZipFile(file) as archive:
                yield open_zip(archive, path.stat().st_size)
        else:
            file.seek(0)
            yield open_legacy(file, path.stat().st_size)


def open_zip(archive: zipfile.ZipFile, file_size: int) -> tuple[Any, ReadStorage]:
    """As `opened`, for files of PyTorch 1.6 and newer."""
    records = {record.filename.lower(): record for record in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in records):
        raise UserError(
            "it is a TorchScript program; save its tensors alone: "
            "torch.save(torch.jit.load('program.pt').state_dict(), 'weights.pth')"
        )
    if sum(record.file_size for record in archive.infolist()) > file_size:
        raise UserError("it is compressed, which PyTorch's own files are not")
    pickled = next((name for name in records if re.fullmatch(r"([^/]*/)?data\.pkl", name)), None)
    if pickled is None:
        raise UserError("it is an archive of other files; unpack it if the weights are inside")
    folder = records[pickled].filename[: -len("data.pkl")]
    check_pickle(records[pickled].file_size)
    tree = pickles.load(io.BytesIO(archive.read(records[pickled])), {})
    order = records.get(f"{folder.lower()}byteorder")
    swapped = order is not None and archive.read(order) == b"big"

    def read(storage: Storage) -> bytes:
        content = archive.read(f"{folder}data/{storage.key}")
        if not swapped:
            return content
        return np.frombuffer(content, np.uint8).reshape(-1, SIZES[storage.kind])[:, ::-1].tobytes()

    return tree, read


def open_legacy(file: IO[bytes], file_size: int) -> tuple[Any, ReadStorage]:
    """As `opened`, for files of older versions: pickles, then the numbers of all storages."""
    storages: dict[str, Storage] = {}
    if pickles.load(file, storages) != LEGACY_MAGIC:
        raise UserError(
            f"it is a pickle that PyTorch did not write; save the tensors with {SAVE_ALONE}"
        )
    _protocol, _system, tree, keys = (pickles.load(file, storages) for _ in range(4))
    check_pickle(file.tell())
    if not isinstance(keys, list):
        raise ValueError("it has no list of its storages")
    places = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        size = count * SIZES[storages[key].kind]
        places[key] = file.tell(), size
        if file.tell() + size > file_size:
            raise EOFError("it ends before its numbers do")
        file.seek(size, io.SEEK_CUR)

    def read(storage: Storage) -> bytes:
        start, size = places[storage.key]
        file.seek(start)
        return file.read(size)

    return tree, read


def check_pickle(size: int) -> None:
    """Raises UserError if a pickle is larger than that of any network."""
    if size > MAX_PICKLE:
        raise UserError(
            f"its pickle has {size} bytes, more than that of any network; save the tensors alone: "
            f"{SAVE_ALONE}"
        )
