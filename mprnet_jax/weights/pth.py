"""Reads and writes PyTorch's files, without running code that a file may contain.

Such a file, `.pth` by the official files' custom, is a pickle and raw numbers. `weights.pickles`
reads the pickle, which imports and calls nothing; PyTorch, which knows all types of numbers, makes
the tensors. A file is refused if its tensors take more bytes than the file has.
"""

import contextlib
import io
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.weights.containers import ReadStorage, opened
from mprnet_jax.weights.foreign import recognize
from mprnet_jax.weights.names import Params, from_file, to_official
from mprnet_jax.weights.pickles import SAVE_ALONE, OddTensor, Tensor, Unknown
from mprnet_jax.weights.wrapping import (
    NotWeights,
    Taken,
    fill_in_slopes,
    shorten,
    type_error,
    unwrap,
)

EXTENSIONS = (".pth", ".pt", ".ckpt", ".tar", ".bin")  # all of the same format
OFFICIAL_TASKS = {  # the names of the authors' files
    "model_deraining.pth": "derain",
    "model_deblurring.pth": "deblur",
    "model_denoising.pth": "denoise",
}
# What damaged files raise, found by reading 6,000 of them, besides OSError and MemoryError.
DAMAGE = (
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
OLDEST = "2.10"  # in older versions a weight file can run code or corrupt memory
OLDEST_REASON = "CVE-2025-32434, CVE-2026-24747"
# Types of numbers that weights may have, or a counter beside them.
ELEMENT_TYPES = re.compile(r"b?float(16|32|64)|u?int\d+|bool|complex\d+")


def read(path: Path) -> tuple[ModelConfig, Params, dict[str, str]]:
    """Reads the network of a PyTorch file; says what was taken if it is wrapped in something.

    Returns:
        Sizes, parameters, and the task as `{"task": ...}` if the name is one of the authors' files.

    Raises:
        UserError: as `read_tensors`, or if the tensors are not those of an MPRNet.
    """
    task = OFFICIAL_TASKS.get(path.name)
    taken = read_taken(path)
    config, params = from_file(path, taken.tensors)
    taken.report(path)
    return config, params, {"task": task} if task else {}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch file by name, as `wrapping.unwrap` finds them.

    Zip files and the older bare pickles are read.

    Raises:
        UserError: if the file cannot be read, is damaged or holds no tensors or several networks,
            or if PyTorch is missing or too old to be safe.
    """
    return read_taken(path).tensors


def read_taken(path: Path) -> Taken:
    """As `read_tensors`, with where the tensors were."""
    torch = import_torch(path)
    with contextlib.ExitStack() as stack:
        with report_damage(path, *DAMAGE):
            content, read_storage = stack.enter_context(opened(path))
        with report_damage(path):
            taken = find_tensors(content)
        with report_damage(path, *DAMAGE):
            tensors = make_tensors(taken.tensors, read_storage, torch)
        check_types(path, tensors)
        with report_damage(path):
            arrays = state_dict(tensors, torch, path.stat().st_size)
    return taken._replace(tensors=fill_in_slopes(arrays))


@contextlib.contextmanager
def report_damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors while reading into a UserError that names the file.

    Warnings are dropped: they are about content for which the file is refused anyway.

    Args:
        path: the file.
        *errors: types that mean that the content is damaged.
    """
    damage: tuple[type[Exception], ...] = (NotWeights, *errors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except damage as error:
        known = None if isinstance(error, NotWeights) else recognize(path)
        text = known or one_line(error)
        if "CRC-32" in text:
            text += ", unless it was saved with torch.serialization.set_crc32_options(False)"
        raise UserError(f"{path}: damaged, or not a PyTorch weight file: {text}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
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
    with file.getbuffer() as content:
        path.write_bytes(content)


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


def find_tensors(content: Any) -> Taken:
    """Returns the network's tensors in what a file holds.

    Raises:
        NotWeights: if there are none, or one is not an ordinary tensor.
        UserError: as `unwrap`.
    """
    if not isinstance(content, dict):
        raise NotWeights(f"it holds a {type(content).__name__} in place of a state_dict")
    try:
        taken = unwrap(content, is_tensor)
    except NotWeights as error:
        objects = [content, *content.values()]
        kinds = dict.fromkeys(item.name for item in objects if isinstance(item, Unknown))
        if not kinds:
            raise
        raise NotWeights(
            f"{error}, but objects of {shorten(kinds)}; save the tensors alone: {SAVE_ALONE}"
        ) from error
    for name, tensor in taken.tensors.items():
        if isinstance(tensor, OddTensor):
            raise NotWeights(
                f"{name[:120]!r} is not an ordinary tensor but one of {tensor.function}; save "
                "ordinary ones"
            )
    return taken


def is_tensor(value: Any) -> bool:
    """Returns whether a value is a tensor, if only one of an unusual kind, such as a sparse one."""
    return isinstance(value, Tensor | OddTensor)


def check_types(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raises UserError for types of numbers that NumPy does not have, such as float8."""
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    odd = {name: kind for name, kind in types.items() if not ELEMENT_TYPES.fullmatch(kind)}
    if odd:
        state = "{name: tensor.float() for name, tensor in model.state_dict().items()}"
        raise type_error(path, odd, f"torch.save({state}, 'weights.pth')")


def element_type(kind: str, torch: ModuleType) -> Any:
    """Returns PyTorch's dtype by its own name or that of its class of storages."""
    dtype = torch.uint8 if kind == "UntypedStorage" else getattr(torch, kind, None)
    dtype = getattr(dtype, "dtype", dtype)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{kind} is no type of numbers")
    return dtype


def make_tensors(
    tensors: Mapping[str, Tensor], read_storage: ReadStorage, torch: ModuleType
) -> dict[str, Any]:
    """Returns PyTorch's tensors, all in memory, by name."""
    storages = {tensor.storage: b"" for tensor in tensors.values()}
    storages = {storage: read_storage(storage) for storage in storages}
    made = {}
    for name, (storage, kind, offset, size, stride) in tensors.items():
        dtype = element_type(kind, torch)
        content = storages[storage]
        flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        made[name] = flat.as_strided(size, stride, offset)
    return made


def state_dict(
    tensors: Mapping[str, Any], torch: ModuleType, file_size: int
) -> dict[str, np.ndarray]:
    """Returns tensors as arrays; raises UserError if they are larger than the file they are of."""
    # A tensor with strides of 0 needs few bytes in the file, whatever its shape.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > file_size:
        raise NotWeights("its tensors would be larger than the file")
    return {name: to_array(name, tensor, torch) for name, tensor in tensors.items()}


def to_array(name: str, tensor: Any, torch: ModuleType) -> np.ndarray:
    """Returns a tensor as an array; bfloat16, which numpy lacks, becomes float32.

    Raises UserError for tensors that numpy cannot represent, such as float8.
    """
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{name!r} is not a tensor for numpy: {one_line(error)}") from error
