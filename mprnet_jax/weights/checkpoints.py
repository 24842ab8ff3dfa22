"""Checkpoints of any pytree in a run folder.

They are in `checkpoints/STEP/`, their scores in `scores.json`. Each checkpoint has the parameters,
the rest of the training state as one vector per dtype, and a small record. The record also has
hashes of the arrays and of itself, since Orbax restores flipped bits silently, and the layout of
the arrays. The newest two checkpoints and the best one are kept; an old one is deleted only when a
newer one is complete on disk.
"""

import contextlib
import hashlib
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.weights.layout import check_layout, describe
from mprnet_jax.weights.packing import empty_pack, pack, unpack
from mprnet_jax.weights.store import StorageError, Store

NEWEST_KEPT = 2
ATTEMPTS = 2  # to read a checkpoint: network file systems may fail once though nothing is damaged
SCORES = "scores.json"  # of the checkpoints, by step; higher is better
UNSCORED = -math.inf
# Saved names: trees of a checkpoint, and what this module adds to the record.
PARAMS, TRAINING_STATE = "params", "rest"
HASHES, LAYOUT = "sha256", "layout"


class Checkpoint(NamedTuple):
    """One saved step."""

    step: int
    params: Any
    training_state: Any  # what training needs besides the parameters
    record: dict[str, Any]  # JSON values


def tree_hash(*trees: Any) -> str:
    """Returns the SHA-256 of the bytes, shapes, dtypes and paths of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def record_hash(record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record of JSON values."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one run folder; a context manager that ends with everything on disk.

    If a disk fails, UserError is raised by the call during which that is found out. A defect keeps
    its own error, and no checkpoint is moved for it.
    """

    def __init__(self, run_folder: Path | str, *, reading: bool = False):
        """Opens the checkpoints of a run folder.

        Args:
            run_folder: the folder; `checkpoints/` in it is created.
            reading: changes nothing in the folder, where a run may be saving at the same time.
        """
        self._folder = Path(run_folder).absolute() / "checkpoints"
        self._scores_file = self._folder.parent / SCORES
        self._scores: dict[int, float] = dict(
            as_first_host_sees([*read_scores(self._scores_file).items()])
        )
        with self._report_failures("its checkpoints cannot be listed"):
            self._store = Store(
                self._folder, (PARAMS, TRAINING_STATE), None if reading else self._steps_to_keep
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # reason: what ended the block is raised
                self.close()

    @contextlib.contextmanager
    def _report_failures(self, what: str = "a checkpoint cannot be written") -> Iterator[None]:
        """Turns the errors of a disk into UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._folder}: {what} ({one_line(error)}); complete checkpoints are kept. Make "
                "space or repair the disk, then start the same command again"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves in the background; returns when the arrays may change again.

        Does nothing if the step exists already. Raises UserError if the disk fails.
        """
        if checkpoint.step in self._store.steps():
            return
        # The copies on the host are hashed and written, so Orbax need not fetch each array from the
        # devices (half the time of a save), and training may go on at once.
        params = jax.tree.map(np.array, checkpoint.params)
        trees = {PARAMS: params, TRAINING_STATE: pack(checkpoint.training_state)}
        record = checkpoint.record | {LAYOUT: layout(params, checkpoint.training_state)}
        hashes = {name: tree_hash(tree) for name, tree in trees.items()}
        hashes["record"] = record_hash(record)
        with self._report_failures():
            self._store.save(checkpoint.step, trees, record | {HASHES: hashes})

    def check(self) -> None:
        """Raises UserError if a save in the background has failed; takes next to no time."""
        if self._store.has_ended():
            self.wait()

    def load_newest(self, params: Any, training_state: Any) -> Checkpoint | None:
        """Returns the newest checkpoint that is not damaged, or None if there are no checkpoints.

        Damaged ones are named in a warning and moved aside, so that the run saves these steps anew.

        Args:
            params: shapes, dtypes and shardings of the parameters; if it holds numpy arrays, numpy
                arrays are returned.
            training_state: shapes, dtypes and shardings of the training state.

        Raises:
            UserError: if there are checkpoints but all are damaged, or if the arrays in one are not
                those of `params` and `training_state`.
        """
        steps = self._store.steps()[::-1]
        newest = self._load_first(steps, params, training_state)
        if newest:
            self._set_aside([step for step in steps if step > newest.step])
        return newest

    def load_best(self, params: Any) -> Checkpoint | None:
        """Returns the best checkpoint without its training state, which is None.

        If that is damaged, the newest one that is not; None if there are no checkpoints. `params`
        and errors are as of `load_newest`.
        """
        steps = self._store.steps()[::-1]
        return self._load_first([self._best(steps), *steps] if steps else [], params)

    def _load_first(
        self, steps: list[int], params: Any, training_state: Any = None
    ) -> Checkpoint | None:
        """Returns the first of the steps that all hosts can read."""
        reason = ""
        for step in steps:
            loaded, reason = None, "another host cannot read it"
            for _ in range(ATTEMPTS):
                try:
                    loaded = self._load(step, params, training_state)
                    break
                except OSError as error:
                    reason = one_line(error)
            if multihost_utils.process_allgather(loaded is not None).all():
                return loaded
            logging.warning("%s is damaged, passed over: %s", self._folder / str(step), reason)
        if steps:
            raise UserError(
                f"{self._folder}: all checkpoints are damaged, or cannot be read ({reason}); "
                "repair the disk, or train in a new workdir"
            )
        return None

    def _load(self, step: int, params: Any, training_state: Any) -> Checkpoint:
        """Returns a checkpoint; raises StorageError if it is damaged."""
        record, hashes = split_record(self._store.load_record(step))
        check_layout(
            self._folder / str(step), record.pop(LAYOUT, None), layout(params, training_state)
        )
        like = {PARAMS: params}
        if training_state is not None:
            like[TRAINING_STATE] = empty_pack(training_state)
        trees = self._store.load_trees(step, like)
        for name, tree in trees.items():
            if tree_hash(tree) != hashes.get(name):
                raise StorageError(f"the hash of its {name} is not what it was saved with")
        if training_state is not None:
            training_state = unpack(trees[TRAINING_STATE], training_state)
        return Checkpoint(step, trees[PARAMS], training_state, record)

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints, which are kept for inspection."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self._folder.parent / f"damaged-{step}-{uuid.uuid4().hex[:8]}"
                with self._report_failures("a damaged checkpoint cannot be set aside"):
                    (self._folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        with self._report_failures("its checkpoints cannot be listed"):
            self._store.reload()

    @property
    def best_step(self) -> int | None:
        """The best checkpoint's step: the newest if none has a score, None if there is none."""
        steps = self._store.steps()
        return self._best(steps) if steps else None

    def _best(self, steps: list[int]) -> int:
        return max(steps, key=lambda step: (self.score(step), step))

    def _steps_to_keep(self, steps: list[int]) -> set[int]:
        return {*steps[-NEWEST_KEPT:], self._best(steps)}

    def score(self, step: int) -> float:
        """Returns a step's score as of `set_score`; minus infinity if it has none."""
        return self._scores.get(step, UNSCORED)

    def set_score(self, step: int, score: float) -> None:
        """Sets a checkpoint's score; the one with the highest score is the best.

        Scores are saved apart from checkpoints: a step is saved before it is validated, and a run
        may be stopped in between. Raises UserError if the disk fails.
        """
        kept = {*self._store.steps(), step}
        self._scores = {s: value for s, value in self._scores.items() if s in kept}
        self._scores[step] = score if math.isfinite(score) else UNSCORED
        if jax.process_index() == 0:
            with self._report_failures(), replacing(self._scores_file) as temporary:
                temporary.write_text(json.dumps(self._scores))

    def wait(self) -> None:
        """Waits until the save in progress is complete on disk; raises UserError if it fails."""
        with self._report_failures():
            self._store.wait()

    def close(self) -> None:
        """Waits as `wait` does, then ends the threads."""
        with self._report_failures():
            self._store.close()


def layout(params: Any, training_state: Any) -> dict[str, list[str]]:
    """Describes the arrays of a checkpoint; `training_state` may be None, for parameters only."""
    described = {PARAMS: describe(params, params)}
    if training_state is not None:
        described[TRAINING_STATE] = describe(training_state, params)
    return described


def split_record(saved: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Splits what was saved into record and hashes; raises StorageError if it is damaged."""
    hashes = saved.pop(HASHES, None) if isinstance(saved, dict) else None
    if not isinstance(hashes, dict) or hashes.get("record") != record_hash(saved):
        raise StorageError("the hash of its record is not what it was saved with")
    return saved, hashes


def as_first_host_sees(value: Any) -> Any:
    """Returns the first host's JSON value on all hosts; all of them must call it.

    On shared file systems other hosts may still see what was there before.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    return json.loads(np.asarray(text, np.uint8).tobytes())


def read_scores(path: Path) -> dict[int, float]:
    """Returns the scores of a run's checkpoints by step; none if the file is missing or damaged."""
    try:
        scores = json.loads(path.read_text())
        return {int(step): float(score) for step, score in scores.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:  # also of other JSON values
        logging.warning("%s is damaged, passed over: %s", path, one_line(error))
        return {}
