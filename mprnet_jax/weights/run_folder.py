"""A run folder: its `config.json`, and the parameters in its checkpoints."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from mprnet_jax.atomic import replacing
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights.checkpoints import Checkpoints


def write_config(run_folder: Path, config: Any) -> None:
    """Saves a config, a dataclass with a field `model`, as the run folder's `config.json`.

    Raises:
        UserError: if it cannot be written.
    """
    path = run_folder / "config.json"
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def read_config(run_folder: Path) -> dict[str, Any]:
    """The config of a run folder as nested dicts.

    Raises:
        UserError: if there is none or it is damaged.
    """
    path = run_folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{run_folder}: holds no config.json; is it a run folder?") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); if it is damaged, remove it: training "
            "with the same command writes it anew"
        ) from error


def load_params(run_folder: Path | str) -> tuple[ModelConfig, Any]:
    """The model config and the best parameters (else the newest) of a run folder.

    Raises:
        UserError: if the folder holds no sound checkpoint.
    """
    run_folder = Path(run_folder)
    model = ModelConfig(**read_config(run_folder)["model"])
    if not (run_folder / "checkpoints").is_dir():
        raise UserError(f"{run_folder}: holds no checkpoints yet; train first")
    init, _ = pure_functions(model)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        init(0),
    )
    with Checkpoints(run_folder, reading=True) as checkpoints:
        checkpoint = checkpoints.load_best(shapes)
    if checkpoint is None:
        raise UserError(f"{run_folder}: holds no checkpoints yet; train first")
    return model, checkpoint.params
