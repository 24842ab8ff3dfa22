"""Reads and writes what a run folder holds: `config.json`, and parameters in checkpoints."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mprnet_jax.atomic import writing
from mprnet_jax.config import ModelConfig, cosine_steps, flatten
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.model.mprnet import abstract_model
from mprnet_jax.paths import exists
from mprnet_jax.weights.checkpoints import UNSCORED, Checkpoints, broadcast_json
from mprnet_jax.weights.names import Params, by_path, warn_of_non_finite

LENGTHS = ("optim.decay_steps", "total_steps", "optim.warmup_steps")  # args of `cosine_steps`


class Trained(NamedTuple):
    """How the parameters that a run folder is read as were trained."""

    config: dict[str, Any]  # of the run, as `read_config` returns it
    step: int
    score: float  # of the validation, in dB; minus infinity if there was none


def write_config(run_folder: Path, config: Any) -> None:
    """Writes a config, a dataclass with a field `model`, to the run folder's `config.json`.

    Raises:
        UserError: if it cannot be written.
    """
    with writing(run_folder / "config.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_config(run_folder: Path) -> dict[str, Any]:
    """Returns the config of a run folder as nested dicts.

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
            f"{path}: cannot be read ({one_line(error)}); if it is damaged, remove it: training "
            "with the same command writes it again"
        ) from error


def is_longer(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Returns whether the wanted run has more steps than the saved one.

    Args:
        found: the saved config by `flatten`; fields may have values of wrong types.
        wanted: the config of the run by `flatten`.
    """
    return (
        all(isinstance(found[name], int) for name in LENGTHS)
        and found["total_steps"] < wanted["total_steps"]
    )


def check_same_run(run_folder: Path, config: Any) -> None:
    """Raises UserError if the folder holds a run whose config differs in a fixed field.

    A longer run with the same learning rates up to the end of the saved one is the same run. Its
    warm-up must be the same, and the cosine as long.
    """
    if not exists(run_folder / "config.json"):
        return
    saved = read_config(run_folder)
    wanted = flatten(config, fixed_only=True)
    found = {name: saved_value(saved, config, name) for name in wanted}
    different = {name for name in wanted if found[name] != wanted[name]}
    if different <= {"total_steps", "optim.decay_steps"} and is_longer(found, wanted):
        decay_steps = cosine_steps(*(found[name] for name in LENGTHS))
        if decay_steps == cosine_steps(*(wanted[name] for name in LENGTHS)):
            return
        steps = found["total_steps"]
        raise UserError(
            f"workdir {run_folder}: holds a run of {steps} steps whose learning rate falls over "
            f"{decay_steps}; one of {wanted['total_steps']} steps would have had other rates from "
            f"the start: add --config.optim.decay_steps={decay_steps} to keep them and to go on "
            "with the last one, or choose another --workdir and start from this run with "
            f"--config.init_from={run_folder}"
        )
    for name in wanted:
        if name in different:
            raise UserError(
                f"workdir {run_folder}: belongs to a run with {name}={found[name]}, this one has "
                f"{name}={wanted[name]}; choose another --workdir, or the same value, or remove "
                "the folder if it holds no checkpoints yet"
            )


def saved_value(saved: dict[str, Any], config: Any, name: str) -> Any:
    """Returns a field of a saved config; the default if an older version saved it without.

    Args:
        saved: nested dicts, as `read_config` returns them.
        config: a config of the same type.
        name: the field's dotted name.
    """
    *parts, last = name.split(".")
    for part in parts:
        group = saved.get(part)
        saved, config = group if isinstance(group, dict) else {}, getattr(config, part)
    (default,) = (field.default for field in dataclasses.fields(config) if field.name == last)
    return saved.get(last, None if default is dataclasses.MISSING else default)


def has_checkpoints(run_folder: Path) -> bool:
    """Returns whether there is a checkpoint, damaged or not; all hosts must call it."""
    try:
        names = [path.name for path in (run_folder / "checkpoints").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise UserError(f"{run_folder}: cannot be listed ({one_line(error)})") from error
    return broadcast_json(any(name.isdigit() for name in names))


def read(run_folder: Path) -> tuple[ModelConfig, Params, Trained]:
    """Reads the model config and the best parameters of a run folder, and how they were trained.

    Warns of NaN and infinite parameters by name.

    Raises:
        UserError: if the folder is not that of a run, or all checkpoints are missing or damaged.
    """
    saved = read_config(run_folder)
    try:
        config = ModelConfig(**saved["model"])
    except UserError as error:
        raise UserError(f"{run_folder}/config.json: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run_folder}/config.json: was not written by this package, or by another version"
        ) from error
    checkpoint = None
    if has_checkpoints(run_folder):
        _, shapes = abstract_model(config)
        on_host = jax.tree.map(lambda shape: np.empty(shape.shape, shape.dtype), shapes)
        with Checkpoints(run_folder, read_only=True) as checkpoints:
            checkpoint = checkpoints.load_best(on_host)
            score = checkpoints.score(checkpoint.step) if checkpoint else UNSCORED
    if checkpoint is None:
        raise UserError(f"{run_folder}: holds no checkpoints yet; train first")
    warn_of_non_finite(run_folder, by_path(checkpoint.params))
    trained = Trained(saved, checkpoint.step, score)
    return config, jax.tree.map(jnp.asarray, checkpoint.params), trained
