"""Checkpoints of any pytree in a run folder.

They are in `checkpoints/STEP/`, their scores in `scores.json`. Each checkpoint holds the
parameters, the training state as one vector per dtype, and a record. The record includes the
structure of both trees, and hashes of the arrays and of itself, since Orbax does not notice flipped
bits. The newest two checkpoints and the best one are kept; an old one is deleted only when a newer
one is complete on disk.
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

from mprnet_jax import paths
from mprnet_jax.atomic import move_folder, replacing
from mprnet_jax.devices.hosts import is_main_process
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.weights.packing import empty_pack, pack, unpack
from mprnet_jax.weights.store import StorageError, Store
from mprnet_jax.weights.structure import check_structure, describe

NEWEST_KEPT = 2
READ_ATTEMPTS = 2  # a network file system may fail once, though nothing is damaged
SCORES = "scores.json"  # of the checkpoints, by step; higher is better
UNSCORED = -math.inf
# Names on disk, kept so that older checkpoints can be read.
PARAMS, TRAINING_STATE = "params", "rest"
HASHES, STRUCTURE = "sha256", "layout"  # fields that this module adds to the record


class Checkpoint(NamedTuple):
    """One saved step."""

    step: int
    params: Any  # the parameters that are validated and exported (the EMA if ema_decay > 0)
    training_state: Any  # what training needs besides `params`; None if it was not loaded
    record: dict[str, Any]  # JSON values that the caller saves with the arrays


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
    """The checkpoints of one run folder; a context manager that waits for the save in progress.

    If the disk fails during a save in the background, a later call raises UserError. Other
    exceptions propagate unchanged; because of them no checkpoint counts as damaged.
    """

    def __init__(self, run_folder: Path | str, *, read_only: bool = False):
        """Opens the checkpoints of a run folder.

        Args:
            run_folder: the folder; `checkpoints/` in it is created, unless `read_only`.
            read_only: whether to only load, as a run may be saving to the folder.

        Raises:
            UserError: if the folder or the scores cannot be read, or TensorStore cannot handle the
                folder's path.
        """
        check_name(run_folder)
        self._read_only = read_only
        self._folder = paths.anywhere(run_folder) / "checkpoints"
        self._scores_file = self._folder.parent / SCORES
        scores: dict[int, float] = {}
        if is_main_process():
            with self._report_storage_failures(f"{SCORES} cannot be read"):
                scores = read_scores(self._scores_file)
        self._scores: dict[int, float] = dict(broadcast_json([*scores.items()]))
        with self._report_storage_failures("its checkpoints cannot be listed"):
            self._store = Store(
                self._folder, (PARAMS, TRAINING_STATE), None if read_only else self._steps_to_keep
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # reason: the block's own exception propagates
                self.close()

    @contextlib.contextmanager
    def _report_storage_failures(
        self, what: str = "a checkpoint cannot be written"
    ) -> Iterator[None]:
        """Turns OSError into UserError; `what` says what failed."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._folder}: {what} ({one_line(error)}); complete checkpoints are kept. Make "
                "space or repair the disk, then start the same command again"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Copies the arrays to the host and saves them in the background.

        Does nothing if the step exists already. Raises UserError if the disk fails.
        """
        if checkpoint.step in self._store.steps():
            return
        # Orbax itself would fetch each array from the devices again, which takes half the time of a
        # save. With copies on the host, training can continue at once.
        params = jax.tree.map(np.array, checkpoint.params)
        trees = {PARAMS: params, TRAINING_STATE: pack(checkpoint.training_state)}
        record = checkpoint.record | {STRUCTURE: structure(params, checkpoint.training_state)}
        hashes = {name: tree_hash(tree) for name, tree in trees.items()}
        hashes["record"] = record_hash(record)
        with self._report_storage_failures():
            self._store.save(checkpoint.step, trees, record | {HASHES: hashes})

    def check_for_errors(self) -> None:
        """Raises UserError if a save in the background has failed; does not wait."""
        if self._store.save_finished():
            self.wait_until_finished()

    def load_newest(self, abstract_params: Any, abstract_training_state: Any) -> Checkpoint | None:
        """Returns the newest checkpoint that is not damaged, or None if there are no checkpoints.

        A warning names the damaged ones. Those newer than what is returned are renamed to
        `damaged-STEP-*` in the run folder, unless `read_only`, so that the run can save these steps
        again.

        Args:
            abstract_params: shapes, dtypes and shardings of the parameters; if it holds numpy
                arrays, numpy arrays are returned.
            abstract_training_state: shapes, dtypes and shardings of the training state.

        Raises:
            UserError: if there are checkpoints but all are damaged, or if one does not have the
                structure of `abstract_params` and `abstract_training_state`.
        """
        steps = self._store.steps()[::-1]
        newest = self._load_first(steps, abstract_params, abstract_training_state)
        if newest and not self._read_only:
            self._set_aside([step for step in steps if step > newest.step])
        return newest

    def load_best(self, abstract_params: Any) -> Checkpoint | None:
        """Returns the best checkpoint, with None as its training state.

        If the best checkpoint is damaged, returns the newest one that is not. Returns None if there
        are no checkpoints. The argument and the errors are those of `load_newest`.
        """
        best = self.best_step
        steps = [step for step in self._store.steps()[::-1] if step != best]
        return self._load_first(steps if best is None else [best, *steps], abstract_params)

    def _load_first(
        self, steps: list[int], abstract_params: Any, abstract_training_state: Any = None
    ) -> Checkpoint | None:
        """Returns the first of the steps that all hosts can read, None if there are no steps.

        Raises UserError if none of the steps can be read.
        """
        reason = ""
        for step in steps:
            loaded, reason = None, "another host cannot read it"
            for _ in range(READ_ATTEMPTS):
                try:
                    loaded = self._load(step, abstract_params, abstract_training_state)
                    break
                except OSError as error:
                    reason = one_line(error)
            if multihost_utils.process_allgather(loaded is not None).all():
                return loaded
            logging.warning("%s cannot be used, skipped: %s", self._folder / str(step), reason)
        if steps:
            raise UserError(
                f"{self._folder}: all checkpoints are damaged, or cannot be read ({reason}); "
                "repair the disk, or train in a new workdir"
            )
        return None

    def _load(self, step: int, abstract_params: Any, abstract_training_state: Any) -> Checkpoint:
        """Returns a checkpoint; raises StorageError if it is damaged."""
        record, hashes = split_record(self._store.load_record(step))
        saved = record.pop(STRUCTURE, None)
        expected = structure(abstract_params, abstract_training_state)
        check_structure(self._folder / str(step), saved, expected)
        like = {PARAMS: abstract_params}
        if abstract_training_state is not None:
            like[TRAINING_STATE] = empty_pack(abstract_training_state)
        trees = self._store.load_trees(step, like)
        for name, tree in trees.items():
            if tree_hash(tree) != hashes.get(name):
                raise StorageError(f"the saved hash of its {name} does not match")
        training_state = None
        if abstract_training_state is not None:
            training_state = unpack(trees[TRAINING_STATE], abstract_training_state)
        return Checkpoint(step, trees[PARAMS], training_state, record)

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints; they are kept for inspection."""
        if not steps:
            return
        if is_main_process():
            for step in steps:
                aside = self._folder.parent / f"damaged-{step}-{uuid.uuid4().hex[:8]}"
                with self._report_storage_failures("a damaged checkpoint cannot be set aside"):
                    move_folder(self._folder / str(step), aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        with self._report_storage_failures("its checkpoints cannot be listed"):
            self._store.reload()

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint; the newest if none has a score, None if there is none."""
        steps = self._store.steps()
        return self._best(steps) if steps else None

    def _best(self, steps: list[int]) -> int:
        return max(steps, key=lambda step: (self.score(step), step))

    def _steps_to_keep(self, steps: list[int]) -> set[int]:
        return {*steps[-NEWEST_KEPT:], self._best(steps)}

    def score(self, step: int) -> float:
        """Returns the score that `set_score` gave a step; minus infinity if it has none."""
        return self._scores.get(step, UNSCORED)

    def set_score(self, step: int, score: float) -> None:
        """Sets the score of a checkpoint; one that is not finite counts as no score.

        The highest score is the best. Scores have a file of their own, because a step is saved
        before it is validated, and a run may be stopped in between. Scores of deleted checkpoints
        are dropped. Raises UserError if the disk fails.
        """
        others = {*self._store.steps()} - {step}
        self._scores = {s: value for s, value in self._scores.items() if s in others}
        if math.isfinite(score):
            self._scores[step] = score
        if is_main_process():
            with self._report_storage_failures(), replacing(self._scores_file) as temporary:
                temporary.write_text(json.dumps(self._scores))

    def wait_until_finished(self) -> None:
        """Waits until the save in progress is complete on disk; raises UserError if it fails."""
        with self._report_storage_failures():
            self._store.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait_until_finished` does, then ends Orbax's threads."""
        with self._report_storage_failures():
            self._store.close()


def check_name(run_folder: Path | str) -> None:
    """Raises UserError if TensorStore cannot handle the folder's path."""
    # To TensorStore, backslashes are slashes.
    paths.check_is_text(paths.anywhere(run_folder), "\\")


def structure(params: Any, training_state: Any) -> dict[str, list[str]]:
    """Describes the arrays of a checkpoint by tree; `training_state` may be None."""
    described = {PARAMS: describe(params, params)}
    if training_state is not None:
        described[TRAINING_STATE] = describe(training_state, params)
    return described


def split_record(saved: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Splits a saved record into record and hashes; raises StorageError if it is damaged."""
    record = dict(saved) if isinstance(saved, dict) else {}
    hashes = record.pop(HASHES, None)
    if not isinstance(hashes, dict) or hashes.get("record") != record_hash(record):
        raise StorageError("the saved hash of its record does not match")
    return record, hashes


def broadcast_json(value: Any) -> Any:
    """Returns the main process's JSON value in all processes; all of them must call it.

    On a shared file system the other hosts may still see an older state of the folder.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    return json.loads(np.asarray(text, np.uint8).tobytes())


def read_scores(path: Path) -> dict[int, float]:
    """Returns the scores of a run's checkpoints by step; none if there is no file.

    If the content is damaged, logs a warning and returns none. If the file cannot be read, raises
    OSError rather than returning none, as the best checkpoint would be deleted without its score.
    """
    try:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError:
            content = path.read_bytes()  # a network file system may fail once
        return {int(step): float(score) for step, score in json.loads(content).items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # or other JSON
        logging.warning(
            "%s is damaged (%s): the scores are lost; until the next validation the newest "
            "checkpoint counts as the best one, and older ones may be deleted",
            path,
            one_line(error),
        )
        return {}
