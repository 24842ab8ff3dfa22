"""Reads weights from PyTorch's files, `.safetensors` files and run folders, and writes such files.

The extension, in upper or lower case, selects the format. `weights.wrapping` finds the network in
what trainers save around it. A string that names a network of
`weights.pretrained` selects that; "./denoise" or Path("denoise") is a folder of that name. A string
that begins with `hf://` is an address of `weights.hub`.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mprnet_jax import paths
from mprnet_jax.atomic import writing
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.model.mprnet import MPRNet, with_params
from mprnet_jax.weights import hub, names, pretrained, pth, safetensors
from mprnet_jax.weights.names import Params

__all__ = ["WeightFile", "load", "read", "read_official", "write"]

if TYPE_CHECKING:
    from mprnet_jax.weights.run_folder import Trained

WRITTEN = {".pth": pth, ".safetensors": safetensors}
EXPORTED = (".onnx", ".stablehlo")  # by `mprnet_jax.export`; not read again
FORMATS = {**dict.fromkeys(pth.EXTENSIONS, pth), ".safetensors": safetensors}


class WeightFile(NamedTuple):
    """What a weight file or a run folder holds."""

    config: ModelConfig  # the sizes; `dtype` and `remat` have their defaults
    params: Params
    # `source`, the name of the file converted first; `task` and `licence` if known.
    origin: dict[str, str]


def load(path: Path | str, dtype: str = "float32") -> MPRNet:
    """Returns the network of a PyTorch file, a `.safetensors` file, a run folder or a name.

    Args:
        path: the file or folder, which also determines all sizes; the name of a network that comes
            with the package, "denoise" or "derain"; or an address on the Hugging Face Hub,
            "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION" (`weights.hub` has the rules).
        dtype: of the computation, "float32" or "bfloat16"; parameters are float32.

    Raises:
        UserError: if the file cannot be read or is not that of an MPRNet.
        TypeError: if `path` is something else, such as a dict of tensors.
    """
    weights = read(path)
    config = dataclasses.replace(weights.config, dtype=dtype)
    return with_params(config, weights.params)


def read(path: Path | str) -> WeightFile:
    """Reads what `load` takes.

    Warns of NaN and infinite weights by name. Logs in one line what was taken where the network is
    not at the file's top or under `state_dict`. Raises as `load`.
    """
    return read_with_training(path)[0]


def read_with_training(path: Path | str) -> "tuple[WeightFile, Trained | None]":
    """As `read`; also returns how the weights of a run folder were trained."""
    named, found = path, find(path)
    with on_disk(found) as path:
        source = {"source": str(named) if hub.is_address(named) else found.name}
        if path.is_dir():
            from mprnet_jax.weights import run_folder  # Orbax takes seconds to import.

            config, params, trained = run_folder.read(path)
            sizes = dataclasses.replace(config, dtype="float32", remat="none")
            return WeightFile(sizes, params, source), trained
        check_is_weight_file(path)
        config, params, origin = FORMATS[path.suffix.lower()].read(path)
        return WeightFile(config, params, source | origin), None


def read_official(path: Path | str) -> dict[str, np.ndarray]:
    """Returns the weights by official name, with the dtypes they have in the file.

    Args:
        path: as of `load`.

    Raises:
        UserError: if the file cannot be read. The names and shapes are not checked.
    """
    with on_disk(find(path)) as path:
        if path.is_dir():
            return names.to_official(*read(path)[:2])
        check_is_weight_file(path)
        return FORMATS[path.suffix.lower()].read_tensors(path)


def write(
    path: Path | str,
    config: ModelConfig,
    params: Params,
    origin: Mapping[str, str] | None = None,
) -> int:
    """Writes a network's weights, complete or not at all; replaces a file that exists.

    Args:
        path: a `.safetensors` or `.pth` file.
        config: the network's sizes.
        params: its parameters.
        origin: as of `WeightFile`; saved in the metadata of a `.safetensors` file.

    Returns:
        The file's size in bytes.

    Raises:
        UserError: for another extension, if the file cannot be written, or if a `.pth` file is to
            be written without PyTorch.
    """
    path = paths.anywhere(path)
    check_output(path)
    with writing(path) as temporary:
        WRITTEN[path.suffix.lower()].write(temporary, config, params, origin or {})
        return temporary.stat().st_size


def find(path: Path | str) -> Path:
    """Returns the absolute path of weights given by path, by name or by address.

    Raises:
        TypeError: if it is none of them.
        UserError: if a network that comes with the package is damaged, as `hub.fetch`, or for no
            path at all.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"weights are loaded from a path or by name, not from a {type(path).__name__}; write "
            "tensors to a file first: torch.save(model.state_dict(), 'weights.pth')"
        )
    if isinstance(path, str) and path in pretrained.PRETRAINED:
        return pretrained.path_of(path)
    if hub.is_address(path):
        return hub.fetch(str(path))
    return paths.anywhere(path)


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[Path]:
    """Yields a path; for a file in a bucket that of a copy, which is removed after the block.

    Raises:
        UserError: if it cannot be copied, and those of the block, which name the original.
    """
    if not paths.is_bucket(path):
        yield path
        return
    from mprnet_jax.compat import gcsfs

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        try:
            whole = path.is_file()
            if whole:
                gcsfs.download(path, copy)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
        try:
            yield copy if whole else path
        except UserError as error:
            raise UserError(str(error).replace(str(copy), str(path))) from error


def check_is_weight_file(path: Path) -> None:
    """Raises UserError if there is no such file or it has another extension."""
    if not path.exists():
        known = ", ".join(pretrained.PRETRAINED)
        raise UserError(
            f"{path}: there is no such file or folder; give a path, or one of the names of the "
            f"networks that come with the package ({known})"
        )
    if path.suffix.lower() in EXPORTED:
        raise UserError(
            f"{path}: is made for other programs and not read again; use the file or run folder "
            "that it was made from"
        )
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{path}: not a weight file: use .pth, .safetensors or a run folder; what ends in "
            f"{', '.join(pth.EXTENSIONS[1:])} is read as .pth"
        )


def check_output(path: Path) -> None:
    """Raises UserError unless weights can be written in the format that the name asks for."""
    if path.suffix.lower() not in WRITTEN:
        raise UserError(
            f"{path}: weights are written as .safetensors or .pth; `mprnet_jax.convert` exports "
            "networks as .onnx or .stablehlo"
        )
    if WRITTEN[path.suffix.lower()] is pth:
        pth.import_torch(path)
