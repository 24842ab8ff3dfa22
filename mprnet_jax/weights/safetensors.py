"""Reads and writes `.safetensors` files.

They hold the weights by official name in PyTorch's layout, float32, so that both frameworks can use
them, and metadata: the model's config as JSON, task and source if known, and a licence note.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.weights.foreign import recognize
from mprnet_jax.weights.names import Params, from_file, to_official
from mprnet_jax.weights.wrapping import Taken, fill_in_slopes, type_error, unwrap

LICENCE = (
    "Weights converted from the published MPRNet files stay under their authors' Academic Public "
    "License: non-commercial use only."
)
MAX_HEADER = 10 * 2**20  # bytes; that of the largest official network has 40 thousand
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def read(path: Path) -> tuple[ModelConfig, Params, dict[str, str]]:
    """Reads the network of a `.safetensors` file; says what was taken if it is wrapped.

    Returns:
        Sizes, parameters, and `source`, `task` and `licence` from the metadata, if there.

    Raises:
        UserError: as `read_tensors`, or if the tensors are not those of an MPRNet.
    """
    taken, metadata = read_file(path)
    config, params = from_file(path, taken.tensors)
    taken.report(path)
    origin: dict[str, str] = {
        key: metadata[key] for key in ("source", "task", "licence") if key in metadata
    }
    return config, params, origin


def write(path: Path, config: ModelConfig, params: Params, origin: Mapping[str, str]) -> None:
    """Writes a network's weights, with `origin` in the metadata; raises OSError if that fails."""
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "licence": LICENCE}
    write_file(path, to_official(config, params), metadata | dict(origin))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name, as `wrapping.unwrap` finds them.

    Raises:
        UserError: if the file cannot be read, is damaged, or holds no tensors or several networks.
    """
    return read_file(path)[0].tensors


def read_file(path: Path) -> tuple[Taken, dict[str, str]]:
    """As `read_tensors`, with where the tensors were, and the file's metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise ValueError(f"its header claims {header} bytes")
        with safe_open(path, framework="np") as opened:
            taken = find_tensors(path, opened)
            tensors = {short: opened.get_tensor(name) for short, name in taken.tensors.items()}
            metadata = opened.metadata() or {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    except (SafetensorError, ValueError) as error:
        text = recognize(path) or one_line(error)
        raise UserError(f"{path}: damaged, or not a .safetensors file: {text}") from error
    return taken._replace(tensors=fill_in_slopes(tensors)), metadata


def find_tensors(path: Path, opened: Any) -> Taken:
    """Returns the names of the network's tensors in an open file, by their official names.

    Raises:
        UserError: if there are none or several networks, or for dtypes that NumPy does not have.
    """
    names = opened.keys()
    try:
        taken = unwrap(dict(zip(names, names)), lambda _: True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    types = {name: opened.get_slice(name).get_dtype() for name in taken.tensors.values()}
    odd = {name: kind for name, kind in types.items() if kind not in DTYPES}
    if odd:
        state = "{name: tensor.float() for name, tensor in model.state_dict().items()}"
        raise type_error(path, odd, f"safetensors.torch.save_file({state}, 'weights.safetensors')")
    return taken


def write_file(path: Path, weights: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes float32 tensors.

    The same weights always give the same bytes, which the safetensors package does not promise. The
    format: length of the header in 8 bytes, little-endian; header in JSON; the numbers.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the numbers
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in weights.values():
            file.write(array.astype("<f4", copy=False).tobytes())
