"""A run folder: its `config.json`, and the parameters in its checkpoints."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mprnet_jax.atomic import writing
from mprnet_jax.config import ModelConfig, flatten
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import abstract
from mprnet_jax.weights.checkpoints import Checkpoints, as_first_host_sees


def write_config(run_folder: Path, config: Any) -> None:
    """Saves a config, a dataclass with a field `model`, as the run folder's `config.json`.

    Raises:
        UserError: if it cannot be written.
    """
    with writing(run_folder / "config.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_config(run_folder: Path) -> dict[str, Any]:
    """The config of a run folder as nested dicts.

    Raises:
        UserError: if there is none or it is damaged.
    """
    path = run_folder / "config.json"
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("holds no config")
        return config
    except FileNotFoundError as error:
        raise UserError(f"{run_folder}: holds no config.json; is it a run folder?") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); if it is damaged, remove it: training "
            "with the same command writes it anew"
        ) from error


def check_same_run(run_folder: Path, config: Any) -> None:
    """Raises UserError if the folder holds a run that computes something else."""
    if not (run_folder / "config.json").exists():
        return
    theirs = read_config(run_folder)
    for name, ours in flatten(config, fixed_only=True).items():
        value = theirs
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value != ours:
            raise UserError(
                f"workdir {run_folder}: belongs to a run with {name}={value}, this one has "
                f"{name}={ours}; choose another --workdir, or the same value, or remove the "
                "folder if it holds no checkpoints yet"
            )


def has_checkpoints(run_folder: Path) -> bool:
    """Whether there is a checkpoint, sound or not; to be asked by all hosts."""
    folder = run_folder / "checkpoints"
    return as_first_host_sees(
        folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())
    )


def load_params(run_folder: Path | str) -> tuple[ModelConfig, Any]:
    """The model config and the best parameters (else the newest) of a run folder, on the host.

    Raises:
        UserError: if the folder holds no sound checkpoint, or is not that of a run.
    """
    run_folder = Path(run_folder)
    try:
        model = ModelConfig(**read_config(run_folder)["model"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run_folder}/config.json: is not of a run of this package, or of an older version"
        ) from error
    checkpoint = None
    if has_checkpoints(run_folder):
        _, shapes = abstract(model)
        on_host = jax.tree.map(lambda shape: np.empty(shape.shape, shape.dtype), shapes)
        with Checkpoints(run_folder, reading=True) as checkpoints:
            checkpoint = checkpoints.load_best(on_host)
    if checkpoint is None:
        raise UserError(f"{run_folder}: holds no checkpoints yet; train first")
    return model, checkpoint.params
