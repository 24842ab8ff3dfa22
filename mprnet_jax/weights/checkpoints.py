"""Checkpoints of any pytree in a run folder, through Orbax.

They lie in `checkpoints/STEP/`, how good they are in `scores.json`. Each checkpoint has the
parameters, what else training needs as one vector for each dtype, and a small record. The record
keeps hashes of the arrays and of itself, which are checked on loading, because Orbax restores
flipped bits silently. The newest two and the best are kept; one is deleted only when a newer one is
whole on disk.
"""

import contextlib
import functools
import hashlib
import json
import math
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from logging import LogRecord
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError
from mprnet_jax.weights.packing import empty_pack, pack, unpack

KEPT = 2
MOST = 16  # checkpoints that are looked at; there are KEPT, the best, and what could not be deleted
SCORES = "scores.json"  # by which the best checkpoint is chosen; higher is better
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


def record_hash(record: dict[str, Any]) -> str:
    """SHA-256 over a record of JSON values."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one run folder; a context manager that ends with everything on disk.

    What cannot be written raises UserError, from the call during which that is found out.
    """

    def __init__(self, run_folder: Path | str, *, reading: bool = False):
        """`reading` changes nothing in the folder, where a run may be saving at the time."""
        self._folder = Path(run_folder).absolute() / "checkpoints"
        self._saving = False
        self._scores_file = self._folder.parent / SCORES
        self._scores = read_scores(self._scores_file)
        silence_libraries()
        resolve_places_once()
        if reading:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=NewestAndBest(self.score), cleanup_tmp_directories=True
            )
        with self._failures_told("its checkpoints cannot be listed"):
            self._manager = Manager(self._folder, options=options)
        # Each host reads alone, and all agree afterwards on whether they could: at a barrier of
        # Orbax's they would wait for one that cannot.
        me = jax.process_index()
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # what led here is told, not what follows from it
            with contextlib.suppress(UserError, jax.errors.JaxRuntimeError):
                self.close()

    @contextlib.contextmanager
    def _failures_told(self, what: str = "a checkpoint cannot be written") -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise whatever the failure leads to.
            raise_runtime_error(error)
            raise UserError(
                f"{self._folder}: {what} ({told(error)}); those that are whole are kept. Make room "
                "or mend the disk, then start the same command again"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves in the background; returns when the arrays may change again.

        A step that exists is left as it is.
        """
        if checkpoint.step in self._manager.all_steps():
            return
        # Copies on the host: hashed and written from there, which spares Orbax the work of asking
        # devices for each array (half the time of a save), and training may go on at once.
        params, rest = jax.tree.map(np.array, checkpoint.params), pack(checkpoint.rest)
        digests = {"params": tree_hash(params), "rest": tree_hash(rest)}
        digests["record"] = record_hash(checkpoint.record)
        record = checkpoint.record | {"sha256": digests}
        with self._failures_told():
            self._manager.save(
                checkpoint.step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    rest=ocp.args.StandardSave(rest),
                    record=ocp.args.JsonSave(record),
                ),
            )
        self._saving = True

    def check(self) -> None:
        """Raises UserError if a save in the background has failed; costs next to nothing."""
        if self._saving and (self._manager.failure or not self._manager.is_saving_in_progress()):
            self.wait()

    def load_newest(self, params: Any, rest: Any) -> Checkpoint | None:
        """The newest sound checkpoint, or None if there is none at all.

        Damaged ones are named in a warning, and set aside for the run to save these steps anew.

        Args:
            params: shapes, types and shardings of the parameters; for numpy arrays of such shapes
                and types, numpy arrays come back.
            rest: shapes, types and shardings of the rest.

        Raises:
            UserError: if there are checkpoints but all are damaged.
        """
        steps = self._as_first_host_sees(sorted(self._manager.all_steps(), reverse=True))
        newest = self._first_sound(steps, params, rest)
        if newest:
            self._set_aside([step for step in steps if step > newest.step])
        return newest

    def load_best(self, params: Any) -> Checkpoint | None:
        """The parameters of the best checkpoint, of the newest sound one where that is damaged;
        None if there is none at all. `rest` is left out.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        steps = self._as_first_host_sees([self.best_step, *steps] if steps else [])
        return self._first_sound(steps, params)

    def _as_first_host_sees(self, steps: list[int]) -> list[int]:
        """The first host's steps: the file systems of others may still show what was before."""
        if jax.process_count() == 1:
            return steps
        steps = steps[:MOST]
        padded = np.array(steps + [-1] * (MOST - len(steps)), np.int32)
        return [step for step in multihost_utils.broadcast_one_to_all(padded).tolist() if step >= 0]

    def _first_sound(self, steps: list[int], params: Any, rest: Any = None) -> Checkpoint | None:
        for step in steps:
            loaded, reason = None, "another host cannot read it"
            try:
                loaded = self._load(step, params, rest)
            except Exception as error:  # Orbax and TensorStore raise whatever the damage leads to.
                raise_runtime_error(error)
                reason = told(error)
            if multihost_utils.process_allgather(loaded is not None).all():
                return loaded
            logging.warning("%s is damaged, passed over: %s", self._folder / str(step), reason)
        if steps:
            raise UserError(f"{self._folder}: all checkpoints are damaged; train in a new workdir")
        return None

    def _load(self, step: int, params: Any, rest: Any) -> Checkpoint:
        wanted = {"params": params} | ({} if rest is None else {"rest": empty_pack(rest)})
        restored = self._reader.restore(
            self._folder / str(step),
            args=ocp.args.Composite(
                record=ocp.args.JsonRestore(),
                **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()},
            ),
        )
        record = dict(restored.record)
        digests = record.pop("sha256")
        found = {name: tree_hash(restored[name]) for name in wanted}
        for name, digest in (found | {"record": record_hash(record)}).items():
            if digest != digests[name]:
                raise ValueError(f"the hash of its {name} is not what it was saved with")
        rest = None if rest is None else unpack(restored.rest, rest)
        return Checkpoint(step, restored.params, rest, record)

    def _set_aside(self, steps: list[int]) -> None:
        """Moves checkpoints out of the way, for whoever wants to know what happened to them."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self._folder.parent / f"damaged-{step}-{uuid.uuid4().hex[:8]}"
                with self._failures_told("a damaged checkpoint cannot be set aside"):
                    (self._folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    @property
    def best_step(self) -> int | None:
        """The best checkpoint's step: the newest if none has a score, None if there is none."""
        steps = self._manager.all_steps()
        return max(steps, key=lambda step: (self.score(step), step)) if steps else None

    def score(self, step: int) -> float:
        """What `set_score` was told of a step; minus infinity if nothing."""
        return self._scores.get(step, UNSCORED)

    def set_score(self, step: int, score: float) -> None:
        """Says how good a checkpoint is; the one with the highest score is the best.

        Apart from saving, so that no score is needed, nor lost, when a run is stopped in between.
        """
        kept = {*self._manager.all_steps(), step}
        self._scores = {s: value for s, value in self._scores.items() if s in kept}
        self._scores[step] = score if math.isfinite(score) else UNSCORED
        if jax.process_index() == 0:
            with self._failures_told(), replacing(self._scores_file) as temporary:
                temporary.write_text(json.dumps(self._scores))

    def wait(self) -> None:
        """Returns when the save in progress is whole on disk."""
        self._saving = False
        with self._failures_told():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of threads."""
        with self._failures_told():
            self._manager.close()
            self._reader.close()


def read_scores(path: Path) -> dict[int, float]:
    """The scores of a run's checkpoints by step; none where the file is missing or damaged."""
    try:
        scores = json.loads(path.read_text())
        return {int(step): float(score) for step, score in scores.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logging.warning("%s is damaged, passed over: %s", path, told(error))
        return {}


class Manager(ocp.CheckpointManager):
    """Orbax's manager, which tells of a failure on this host at once and not of preemption."""

    failure: Exception | None = None  # of a save in the background

    def _wait_for_checkpointers(self) -> None:
        try:
            super()._wait_for_checkpointers()
        except Exception as error:
            self.failure = error
            raise

    def wait_until_finished(self) -> None:
        """Returns when the save in progress is whole, raises what it failed with.

        Orbax tells of a failure when all hosts have come together, which others, waiting for this
        one to write, would not do for ten minutes.
        """
        while jax.process_count() > 1 and self.is_saving_in_progress():
            if self.failure:
                raise self.failure
            time.sleep(0.005)
        super().wait_until_finished()

    def reached_preemption(self, step: int) -> bool:
        """Never, see `training.interrupts`: Orbax would ask JAX at steps of its own, and that
        breaks the agreement on when all hosts stop.
        """
        return False


class NewestAndBest:
    """Orbax's question of which checkpoints to keep, answered."""

    def __init__(self, score: Callable[[int], float]):
        self._score = score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of the checkpoints, oldest first, to keep; the signature is Orbax's."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-KEPT:], max(steps, key=lambda step: (self._score(step), step))}
        return [step in kept for step in steps]


def resolve_places_once() -> None:
    """Keeps training's memory flat over any number of saves.

    Orbax asks TensorStore with every array where the checkpoint lies, and each answer of
    `Spec.to_json` leaks its strings (TensorStore 0.1.71 to 0.1.86): 0.4 MB in a save of 800 arrays.
    """
    kvstore = types.SimpleNamespace(Spec=ResolvedOnce, open=open_kvstore)
    tensorstore_utils.ts = types.SimpleNamespace(**vars(tensorstore) | {"KvStore": kvstore})


class ResolvedOnce:
    """Stands in for `tensorstore.KvStore.Spec` where Orbax uses it; remembers the last answers."""

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec

    def to_json(self) -> dict[str, Any]:
        """The spec with all that TensorStore adds."""
        return dict(_resolved(json.dumps(self.spec)))


@functools.lru_cache(maxsize=16)
def _resolved(spec: str) -> dict[str, Any]:
    return tensorstore.KvStore.Spec(json.loads(spec)).to_json()


def open_kvstore(spec: ResolvedOnce, **arguments: Any) -> Any:
    """Stands in for `tensorstore.KvStore.open`."""
    return tensorstore.KvStore.open(spec.spec, **arguments)


def silence_libraries() -> None:
    """Keeps Orbax and TensorStore from burying the one line that tells of a failure.

    Orbax logs its traceback several times, and TensorStore reports an exception that nobody can
    catch for every array whose writing a failed save has abandoned.
    """
    logging.get_absl_logger().addFilter(not_of_orbax)
    if sys.unraisablehook is not without_abandoned_writes:
        without_abandoned_writes.before = sys.unraisablehook
        sys.unraisablehook = without_abandoned_writes


def not_of_orbax(record: LogRecord) -> bool:
    """Whether a log record comes from elsewhere."""
    return "orbax" not in record.pathname


def without_abandoned_writes(unraisable: Any) -> None:
    """Passes all but TensorStore's reports on to the hook that was there before."""
    if str(unraisable.exc_value) != "Event loop is closed":
        without_abandoned_writes.before(unraisable)


def raise_runtime_error(error: BaseException | None) -> None:
    """Raises JAX's error that led to this one, if there is one: devices or other hosts are its
    reason, not the disk. Orbax turns that of a lost host into a TimeoutError.
    """
    seen = set()  # an error that is raised again may lead back to itself
    while error is not None and id(error) not in seen:
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def told(error: Exception) -> str:
    """An exception of Orbax or TensorStore in a few words."""
    return " ".join(str(error).split())[:200] or type(error).__name__
