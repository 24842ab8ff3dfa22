"""Checkpoints of any pytree in a run folder.

They lie in `checkpoints/STEP/`, how good they are in `scores.json`. Each checkpoint has the
parameters, what else training needs as one vector for each dtype, and a small record. The record
keeps hashes of the arrays and of itself, which are checked on loading, because Orbax restores
flipped bits silently. The newest two and the best are kept; one is deleted only when a newer one is
whole on disk.
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
from mprnet_jax.weights.packing import empty_pack, pack, unpack
from mprnet_jax.weights.store import Store, raise_runtime_error

KEPT = 2
ATTEMPTS = 2  # to read a checkpoint: what a network's disk refuses once need not be damaged
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
        self._scores_file = self._folder.parent / SCORES
        self._scores = dict(
            map(tuple, as_first_host_sees([*read_scores(self._scores_file).items()]))
        )
        with self._failures_told("its checkpoints cannot be listed"):
            self._store = Store(self._folder, None if reading else self._kept)

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
                f"{self._folder}: {what} ({one_line(error)}); those that are whole are kept. Make "
                "room or mend the disk, then start the same command again"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves in the background; returns when the arrays may change again.

        A step that exists is left as it is.
        """
        if checkpoint.step in self._store.steps():
            return
        # Copies on the host: hashed and written from there, which spares Orbax the work of asking
        # devices for each array (half the time of a save), and training may go on at once.
        params, rest = jax.tree.map(np.array, checkpoint.params), pack(checkpoint.rest)
        digests = {"params": tree_hash(params), "rest": tree_hash(rest)}
        digests["record"] = record_hash(checkpoint.record)
        record = checkpoint.record | {"sha256": digests}
        with self._failures_told():
            self._store.save(checkpoint.step, {"params": params, "rest": rest}, record)

    def check(self) -> None:
        """Raises UserError if a save in the background has failed; costs next to nothing."""
        if self._store.has_ended():
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
        steps = self._store.steps()[::-1]
        newest = self._first_sound(steps, params, rest)
        if newest:
            self._set_aside([step for step in steps if step > newest.step])
        return newest

    def load_best(self, params: Any) -> Checkpoint | None:
        """The parameters of the best checkpoint, of the newest sound one where that is damaged;
        None if there is none at all. `rest` is left out.
        """
        steps = self._store.steps()[::-1]
        return self._first_sound([self.best_step, *steps] if steps else [], params)

    def _first_sound(self, steps: list[int], params: Any, rest: Any = None) -> Checkpoint | None:
        for step in steps:
            loaded, reason = None, "another host cannot read it"
            for _ in range(ATTEMPTS):
                try:
                    loaded = self._load(step, params, rest)
                    break
                except Exception as error:  # Orbax and TensorStore raise whatever damage leads to.
                    raise_runtime_error(error)
                    reason = one_line(error)
            if multihost_utils.process_allgather(loaded is not None).all():
                return loaded
            logging.warning("%s is damaged, passed over: %s", self._folder / str(step), reason)
        if steps:
            raise UserError(
                f"{self._folder}: all checkpoints are damaged, or cannot be read ({reason}); mend "
                "the disk, or train in a new workdir"
            )
        return None

    def _load(self, step: int, params: Any, rest: Any) -> Checkpoint:
        wanted = {"params": params} | ({} if rest is None else {"rest": empty_pack(rest)})
        restored, record = self._store.load(step, wanted)
        digests = record.pop("sha256")
        found = {name: tree_hash(tree) for name, tree in restored.items()}
        for name, digest in (found | {"record": record_hash(record)}).items():
            if digest != digests[name]:
                raise ValueError(f"the hash of its {name} is not what it was saved with")
        rest = None if rest is None else unpack(restored["rest"], rest)
        return Checkpoint(step, restored["params"], rest, record)

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
        self._store.look_again()

    @property
    def best_step(self) -> int | None:
        """The best checkpoint's step: the newest if none has a score, None if there is none."""
        steps = self._store.steps()
        return self._best(steps) if steps else None

    def _best(self, steps: list[int]) -> int:
        return max(steps, key=lambda step: (self.score(step), step))

    def _kept(self, steps: list[int]) -> set[int]:
        return {*steps[-KEPT:], self._best(steps)}

    def score(self, step: int) -> float:
        """What `set_score` was told of a step; minus infinity if nothing."""
        return self._scores.get(step, UNSCORED)

    def set_score(self, step: int, score: float) -> None:
        """Says how good a checkpoint is; the one with the highest score is the best.

        Apart from saving, so that no score is needed, nor lost, when a run is stopped in between.
        """
        kept = {*self._store.steps(), step}
        self._scores = {s: value for s, value in self._scores.items() if s in kept}
        self._scores[step] = score if math.isfinite(score) else UNSCORED
        if jax.process_index() == 0:
            with self._failures_told(), replacing(self._scores_file) as temporary:
                temporary.write_text(json.dumps(self._scores))

    def wait(self) -> None:
        """Returns when the save in progress is whole on disk."""
        with self._failures_told():
            self._store.wait()

    def close(self) -> None:
        """Waits, then lets go of threads."""
        with self._failures_told():
            self._store.close()


def as_first_host_sees(value: Any) -> Any:
    """The JSON value that the first host has for this one: where hosts share files, those of others
    may still be what was there before. To be called by all hosts.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    return json.loads(np.asarray(text, np.uint8).tobytes())


def read_scores(path: Path) -> dict[int, float]:
    """The scores of a run's checkpoints by step; none where the file is missing or damaged."""
    try:
        scores = json.loads(path.read_text())
        return {int(step): float(score) for step, score in scores.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logging.warning("%s is damaged, passed over: %s", path, one_line(error))
        return {}
