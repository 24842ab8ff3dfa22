"""Weight files: `.pth`, `.safetensors` and run folders in, `.pth` and `.safetensors` out.

A `.safetensors` file holds the published names in PyTorch's layout, float32, so that both
frameworks read it, and metadata: the model's config as JSON, task and source where known, and the
licence note.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from mprnet_jax.atomic import writing
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.model.mprnet import MPRNet, with_params
from mprnet_jax.weights import names, pth
from mprnet_jax.weights.names import Params

LICENCE = (
    "Weights converted from the published MPRNet files stay under their authors' Academic Public "
    "License: non-commercial use only."
)
PUBLISHED_TASKS = {
    "model_deraining.pth": "derain",
    "model_deblurring.pth": "deblur",
    "model_denoising.pth": "denoise",
}
MAX_HEADER = 10 * 2**20  # bytes; that of the largest published network takes 40 thousand


class WeightFile(NamedTuple):
    """What a weight file or a run folder holds."""

    config: ModelConfig
    params: Params
    origin: dict[str, str]  # `source`, the name of the first file, and `task` where it is known
    published: dict[str, np.ndarray]  # the weights as read, under the published names


def load(path: Path | str, dtype: str = "float32") -> MPRNet:
    """The network of a `.pth` file, a `.safetensors` file or a run folder.

    `dtype` is that of the computation, "float32" or "bfloat16"; parameters are float32. All sizes
    follow from the file. Raises UserError if the file cannot be read or is not an MPRNet's.
    """
    weights = read(path)
    config = dataclasses.replace(weights.config, dtype=dtype)
    return with_params(config, weights.params)


def read(path: Path | str) -> WeightFile:
    """The weights in a `.pth` file, a `.safetensors` file or a run folder.

    Warns of NaN and infinite weights by name. Raises UserError with all that is wrong in one line.
    """
    path = Path(path)
    origin = {"source": path.name}
    if path.is_dir():
        from mprnet_jax.weights import run_folder  # Orbax takes seconds to import.

        published = names.to_official(*run_folder.load_params(path))
    elif not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    elif path.suffix == ".safetensors":
        published, metadata = read_safetensors(path)
        origin |= {key: metadata[key] for key in ("source", "task") if key in metadata}
    elif path.suffix == ".pth":
        published = pth.read(path)
        if path.name in PUBLISHED_TASKS:
            origin["task"] = PUBLISHED_TASKS[path.name]
    else:
        raise UserError(f"{path}: not a weight file: use .pth, .safetensors or a run folder")
    try:
        config, params = names.from_official(published)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    wrong = [name for name, array in published.items() if not np.isfinite(array).all()]
    if wrong:
        logging.warning("%s: %s", path, names.told("NaN or infinite", wrong)[0])
    return WeightFile(config, params, origin, published)


def write(
    path: Path | str,
    config: ModelConfig,
    params: Params,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Writes a network's weights, `.safetensors` or `.pth` by extension, whole or not at all.

    `origin`, as of a `WeightFile`, goes into the metadata of a `.safetensors` file. A file that
    exists is replaced. Raises UserError for another extension or a place that cannot be written.
    """
    path = Path(path)
    check_extension(path)
    weights = names.to_official(config, params)
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "licence": LICENCE}
    with writing(path) as temporary:
        if path.suffix == ".pth":
            pth.write(temporary, weights)
        else:
            write_safetensors(temporary, weights, metadata | dict(origin or {}))


def check_extension(path: Path) -> None:
    """Raises UserError unless weights can be written under this name."""
    if path.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{path}: weights are written as .safetensors or .pth")


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata. Raises UserError for a file that is not sound."""
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise ValueError(f"its header claims {header} bytes")
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a sound .safetensors file: {one_line(error)}") from error


def write_safetensors(
    path: Path, weights: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes float32 tensors; the same give the same bytes, unlike with the safetensors package.

    The format: the header's length in 8 bytes, little-endian; a header in JSON; the numbers.
    """
    header, end = {"__metadata__": metadata}, 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the numbers
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in weights.values():
            file.write(array.astype("<f4", copy=False).tobytes())
