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
from mprnet_jax.weights.names import Params, from_file, to_official

LICENCE = (
    "Weights converted from the published MPRNet files stay under their authors' Academic Public "
    "License: non-commercial use only."
)
MAX_HEADER = 10 * 2**20  # bytes; that of the largest official network has 40 thousand


def read(path: Path) -> tuple[ModelConfig, Params, dict[str, str]]:
    """Reads the network of a `.safetensors` file.

    Returns:
        Sizes, parameters, and `source`, `task` and `licence` from the metadata, if there.

    Raises:
        UserError: if the file cannot be read, is damaged, or is not that of an MPRNet.
    """
    tensors, metadata = read_file(path)
    config, params = from_file(path, tensors)
    origin: dict[str, str] = {
        key: metadata[key] for key in ("source", "task", "licence") if key in metadata
    }
    return config, params, origin


def write(path: Path, config: ModelConfig, params: Params, origin: Mapping[str, str]) -> None:
    """Writes a network's weights, with `origin` in the metadata; raises OSError if that fails."""
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "licence": LICENCE}
    write_file(path, to_official(config, params), metadata | dict(origin))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name; raises UserError if the file cannot be read."""
    return read_file(path)[0]


def read_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns tensors by name, and metadata; raises UserError if the file cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise ValueError(f"its header claims {header} bytes")
        with safe_open(path, framework="np") as opened:
            names = opened.keys()
            return {name: get_tensor(opened, name) for name in names}, opened.metadata() or {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path}: damaged, or not a .safetensors file: {one_line(error)}"
        ) from error


def get_tensor(opened: Any, name: str) -> np.ndarray:
    """Returns a tensor of an open file; raises ValueError for dtypes that numpy lacks."""
    try:
        return opened.get_tensor(name)
    except (AttributeError, TypeError) as error:  # safetensors looks the dtype up in numpy
        raise ValueError(f"{name} is not of a dtype that numpy has: {error}") from error


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
