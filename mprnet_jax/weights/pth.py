"""PyTorch's `.pth` files: read without running anything that they hold, and written.

A `.pth` file holds a pickle. Before PyTorch opens it, with `weights_only=True`, the pickle is
scanned: it may ask for tensors and nothing else. Tensors may claim no more bytes than the file has.
"""

import io
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from mprnet_jax.errors import UserError, one_line

OLDEST = (2, 10)  # PyTorch before it can be made to run code or to corrupt memory by a weight file
OLDEST_REASON = "CVE-2025-32434, CVE-2026-24747"
ZIP_MAGIC = b"PK\x03\x04"  # by which PyTorch itself tells the two formats apart
LEGACY_PICKLES = 5  # magic number, protocol, system, the object, storage keys; raw numbers follow
MAX_PICKLE = 4 * 2**20  # bytes; that of the largest published network takes 83 thousand
TENSOR_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)"
)
OTHER_GLOBALS = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}  # opcodes no weight file needs


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `.pth` file: a state_dict, or a dict that holds one as `state_dict`.

    Zip files and the older bare pickles are read; a `module.` before all names is dropped.
    Raises UserError if the file is anything else, or PyTorch is absent or too old to be safe.
    """
    torch = import_torch(path)
    try:
        for asked in globals_asked(path):
            if not TENSOR_GLOBALS.fullmatch(asked):
                raise UserError(f"it asks for {asked!r}, which no tensor needs; do not trust it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in files that are refused anyway
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return state_dict(checkpoint, torch, path.stat().st_size)
    except Exception as error:  # PyTorch raises whatever the damage leads to.
        raise UserError(f"{path}: not a sound PyTorch weight file: {one_line(error)}") from error


def write(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes `{"state_dict": weights}`, as the published files are. Raises UserError as `read`."""
    torch = import_torch(path)
    tensors = OrderedDict((name, torch.from_numpy(array)) for name, array in weights.items())
    file = io.BytesIO()  # where a disk is full, PyTorch tells of what follows from it
    torch.save({"state_dict": tensors}, file)
    path.write_bytes(file.getbuffer())


def import_torch(path: Path) -> ModuleType:
    """PyTorch, if it is there and new enough to open files of others; else UserError."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: .pth files need PyTorch: pip install 'mprnet-jax[torch]', or use .safetensors"
        ) from error
    if torch.__version__ < OLDEST:
        raise UserError(
            f"{path}: PyTorch {torch.__version__} does not read .pth files safely "
            f"({OLDEST_REASON}): install 2.10 or newer, or use .safetensors"
        )
    return torch


def globals_asked(path: Path) -> Iterator[str]:
    """What the pickles in the file import, as 'module name'. Raises for damaged files."""
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
    """Raises UserError for far more tensors than a network has: each takes memory of its own."""
    if size > MAX_PICKLE:
        raise UserError(f"its pickle takes {size} bytes, more than that of any network")


def imports(file: BinaryIO) -> Iterator[str]:
    """What the one pickle at the file's position imports."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" or opcode.name in OTHER_GLOBALS:
            yield str(argument or opcode.name)


def state_dict(checkpoint: Any, torch: ModuleType, file_size: int) -> dict[str, np.ndarray]:
    """The tensors of a loaded checkpoint as arrays."""
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
    # A few bytes can pose as a tensor of any size, by strides of 0.
    if sum(tensor.numel() * tensor.element_size() for tensor in checkpoint.values()) > file_size:
        raise UserError("its tensors claim to be larger than the file")
    prefix = "module." if all(name.startswith("module.") for name in checkpoint) else ""
    return {
        name.removeprefix(prefix): to_array(tensor, torch) for name, tensor in checkpoint.items()
    }


def to_array(tensor: Any, torch: ModuleType) -> np.ndarray:
    """A tensor as an array; NumPy has no bfloat16, so that becomes float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
