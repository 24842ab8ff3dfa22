"""Reads and writes PyTorch's `.pth` files, without running code that a file may contain.

A `.pth` file contains a pickle. The pickle is scanned before PyTorch opens the file with
`weights_only=True`: it may import what tensors need and nothing else. A file is refused if its
tensors take more bytes than the file has.
"""

import contextlib
import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.weights.names import Params, from_file, to_official

OFFICIAL_TASKS = {  # the names of the authors' files
    "model_deraining.pth": "derain",
    "model_deblurring.pth": "deblur",
    "model_denoising.pth": "denoise",
}
# What `pickletools` and `zipfile` (SCAN_ERRORS) and PyTorch (LOAD_ERRORS) raise for damaged files,
# found by reading 14,000 of them, besides OSError and MemoryError. PyTorch's unpickler executes a
# damaged pickle with operands of any type, hence TypeError and AttributeError.
SCAN_ERRORS = (
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
LOAD_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
OLDEST = "2.10"  # in older versions a weight file can run code or corrupt memory
OLDEST_REASON = "CVE-2025-32434, CVE-2026-24747"
ZIP_MAGIC = b"PK\x03\x04"  # by which PyTorch, too, distinguishes the two formats
LEGACY_PICKLES = 5  # magic number, protocol, system, the object, storage keys; then raw numbers
MAX_PICKLE = 4 * 2**20  # bytes; that of the largest official network has 83 thousand
TENSOR_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)"
)
OTHER_GLOBALS = {
    "STACK_GLOBAL",
    "INST",
    "EXT1",
    "EXT2",
    "EXT4",
}  # opcodes that no weight file needs


def read(path: Path) -> tuple[ModelConfig, Params, dict[str, str]]:
    """Reads the network of a `.pth` file.

    Returns:
        Sizes, parameters, and the task as `{"task": ...}` if the name is one of the authors' files.

    Raises:
        UserError: as `read_tensors`, or if the tensors are not those of an MPRNet.
    """
    task = OFFICIAL_TASKS.get(path.name)
    config, params = from_file(path, read_tensors(path))
    return config, params, {"task": task} if task else {}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a `.pth` file by name: a state_dict, or a dict with a `state_dict`.

    Zip files and the older bare pickles are read; a `module.` before all names is dropped.

    Raises:
        UserError: if the file cannot be read, is damaged or holds anything else, or if PyTorch is
            missing or too old to be safe.
    """
    torch = import_torch(path)
    with report_damage(path, *SCAN_ERRORS):
        check_imports(path)
    with report_damage(path, *LOAD_ERRORS):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    with report_damage(path):
        return state_dict(checkpoint, torch, path.stat().st_size)


@contextlib.contextmanager
def report_damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors while reading into a UserError that names the file.

    Warnings are dropped: they are about content for which the file is refused anyway.

    Args:
        path: the file.
        *errors: types that mean that the content is damaged. UserErrors are about the content too.
    """
    damage: tuple[type[Exception], ...] = (UserError, *errors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except damage as error:
        text = one_line(error)
        raise UserError(f"{path}: damaged, or not a PyTorch weight file: {text}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    except MemoryError as error:
        raise UserError(f"{path}: damaged, or too large for the memory of this machine") from error


def write(path: Path, config: ModelConfig, params: Params, origin: Mapping[str, str]) -> None:
    """Writes `{"state_dict": ...}`, as the authors' files are; `origin` is not saved.

    Raises:
        UserError: if PyTorch is missing or too old.
        OSError: if the file cannot be written.
    """
    torch = import_torch(path)
    weights = to_official(config, params)
    tensors = OrderedDict((name, torch.from_numpy(array)) for name, array in weights.items())
    file = io.BytesIO()  # PyTorch's own error for a full disk does not mention the disk
    torch.save({"state_dict": tensors}, file)
    path.write_bytes(file.getbuffer())


def import_torch(path: Path) -> ModuleType:
    """Returns PyTorch; raises UserError naming `path` if it is missing, or too old to be safe."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: .pth files need PyTorch: pip install 'mprnet-jax[torch]', or use .safetensors"
        ) from error
    if torch.__version__ < OLDEST:
        raise UserError(
            f"{path}: PyTorch {torch.__version__} is too old to handle .pth files safely "
            f"({OLDEST_REASON}): install {OLDEST} or newer, or use .safetensors"
        )
    return torch


def check_imports(path: Path) -> None:
    """Raises UserError if a pickle in the file imports anything that tensors do not need."""
    for name in imported_names(path):
        if not TENSOR_GLOBALS.fullmatch(name):
            raise UserError(f"it imports {name!r}, which no tensor needs; do not trust it")


def imported_names(path: Path) -> Iterator[str]:
    """Yields what the pickles in the file import, as "module name"."""
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                yield from imports(file)
            check_pickle(file.tell())
            return
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise UserError("it is compressed, which PyTorch's own files are not")
            for record in records:
                if record.filename.lower().endswith(".pkl"):
                    check_pickle(record.file_size)
                    with archive.open(record) as pickled:
                        yield from imports(pickled)


def check_pickle(size: int) -> None:
    """Raises UserError if a pickle is larger than that of any network."""
    if size > MAX_PICKLE:
        raise UserError(f"its pickle has {size} bytes, more than that of any network")


def imports(file: IO[bytes]) -> Iterator[str]:
    """Yields what the pickle at the file's position imports."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" or opcode.name in OTHER_GLOBALS:
            yield str(argument or opcode.name)


def state_dict(checkpoint: Any, torch: ModuleType, file_size: int) -> dict[str, np.ndarray]:
    """Returns the tensors of a loaded checkpoint as arrays; raises UserError for anything else."""
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get("state_dict", checkpoint)
    if not isinstance(checkpoint, dict):
        raise UserError(f"it holds a {type(checkpoint).__name__} in place of a state_dict")
    for name, tensor in checkpoint.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(
                f"{name!r} is a {type(tensor).__name__}: not in a state_dict of tensors"
            )
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UserError(f"{name!r} is not an ordinary tensor")
    # A tensor with strides of 0 needs few bytes in the file, whatever its shape.
    if sum(tensor.numel() * tensor.element_size() for tensor in checkpoint.values()) > file_size:
        raise UserError("its tensors would be larger than the file")
    prefix = "module." if all(name.startswith("module.") for name in checkpoint) else ""
    return {
        name.removeprefix(prefix): to_array(name, tensor, torch)
        for name, tensor in checkpoint.items()
    }


def to_array(name: str, tensor: Any, torch: ModuleType) -> np.ndarray:
    """Returns a tensor as an array; bfloat16, which numpy lacks, becomes float32.

    Raises UserError for tensors that numpy cannot represent, such as float8.
    """
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{name!r} is not a tensor for numpy: {one_line(error)}") from error
