"""Checkpoints of any pytree in a run folder, through Orbax.

A run folder holds `config.json` and `checkpoints/STEP/`. Each checkpoint has the parameters, what
else training needs, and a small record. Hashes of the arrays are kept in the record and checked on
loading, because Orbax restores flipped bits silently. The newest two and the best are kept.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from mprnet_jax.atomic import replacing
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions

KEPT = 2
SCORE = "score"  # name of the number by which the best checkpoint is chosen; higher is better
UNSCORED = -math.inf


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    step: int
    params: Any
    rest: Any  # what training needs besides the parameters
    record: dict[str, Any]  # JSON values


def tree_hash(*trees: Any) -> str:
    """SHA-256 over the bytes, shapes, types and paths of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8))
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path | str):
        policies = ocp.checkpoint_managers
        kept = policies.AnyPreservationPolicy(
            [
                policies.LatestN(KEPT),
                policies.BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=1),
            ]
        )
        self._folder = Path(run_folder).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=kept,
                best_fn=lambda metrics: metrics[SCORE],
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, checkpoint: Checkpoint, score: float = UNSCORED) -> None:
        """Saves in the background; returns when the arrays may change again.

        The checkpoint with the highest `score` is the best. A step that exists is left as it is.
        """
        if checkpoint.step in self._manager.all_steps():
            return
        digests = {"params": tree_hash(checkpoint.params), "rest": tree_hash(checkpoint.rest)}
        self._manager.save(
            checkpoint.step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(checkpoint.params),
                rest=ocp.args.StandardSave(checkpoint.rest),
                record=ocp.args.JsonSave(checkpoint.record | {"sha256": digests}),
            ),
            metrics={SCORE: score},
        )

    def load_newest(self, params: Any, rest: Any) -> Checkpoint | None:
        """The newest sound checkpoint, or None if there is none at all.

        Damaged ones are named in a warning and passed over.

        Args:
            params: shapes, types and shardings of the parameters.
            rest: likewise of the rest.

        Raises:
            UserError: if there are checkpoints but all are damaged.
        """
        return self._first_sound(sorted(self._manager.all_steps(), reverse=True), params, rest)

    def load_best(self, params: Any) -> Checkpoint | None:
        """The parameters of the best checkpoint, of the newest sound one where that is damaged;
        None if there is none at all. `rest` is left out.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        return self._first_sound([self.best_step, *steps] if steps else [], params)

    def _first_sound(self, steps: list[int], params: Any, rest: Any = None) -> Checkpoint | None:
        for step in steps:
            try:
                return self._load(step, params, rest)
            except Exception as error:  # Orbax and TensorStore raise whatever the damage leads to.
                reason = str(error).strip().split("\n")[0][:200]
                logging.warning("%s is damaged, passed over: %s", self._folder / str(step), reason)
        if steps:
            raise UserError(f"{self._folder}: all checkpoints are damaged; train in a new workdir")
        return None

    def _load(self, step: int, params: Any, rest: Any) -> Checkpoint:
        wanted = {"params": params} | ({} if rest is None else {"rest": rest})
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                record=ocp.args.JsonRestore(),
                **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()},
            ),
        )
        record = dict(restored.record)
        digests = record.pop("sha256")
        for name in wanted:
            if tree_hash(restored[name]) != digests[name]:
                raise ValueError(f"its {name} do not have the hash they were saved with")
        return Checkpoint(step, restored.params, restored.get("rest"), record)

    @property
    def best_step(self) -> int | None:
        """The best checkpoint's step: the newest if none has a score, None if there is none."""
        return self._manager.best_step()

    def wait(self) -> None:
        """Returns when the save in progress is whole on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of threads."""
        self._manager.close()


def write_config(run_folder: Path, config: Any) -> None:
    """Saves a config, a dataclass with a field `model`, as the run folder's `config.json`."""
    with replacing(run_folder / "config.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


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
        raise UserError(f"{path}: cannot be read ({error})") from error


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
    checkpoints = Checkpoints(run_folder)
    try:
        checkpoint = checkpoints.load_best(shapes)
    finally:
        checkpoints.close()
    if checkpoint is None:
        raise UserError(f"{run_folder}: holds no checkpoints yet; train first")
    return model, checkpoint.params
