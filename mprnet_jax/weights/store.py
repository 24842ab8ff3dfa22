"""Steps on disk, each with trees of arrays and a record: the one file that knows Orbax.

It also keeps Orbax and TensorStore quiet, prompt to tell of failures, and from leaking.
"""

import functools
import json
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from logging import LogRecord
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from orbax.checkpoint._src.serialization import tensorstore_utils

RECORD = "record"


class Store:
    """The steps in a folder; methods raise whatever a failure leads to in Orbax or TensorStore."""

    def __init__(self, folder: Path, kept: Callable[[list[int]], set[int]] | None):
        """`kept` chooses the steps to keep, of all in order; None promises only to read."""
        silence_libraries()
        resolve_places_once()
        self._folder = folder
        self._saving = False
        if kept is None:
            options = {"read_only": True}
        else:
            options = {"preservation_policy": Kept(kept), "cleanup_tmp_directories": True}
        # All hosts go by the first one's list: the file systems of others may be a little behind.
        options["single_host_load_and_broadcast"] = True
        self._manager = Manager(folder, options=ocp.CheckpointManagerOptions(**options))
        # Each host reads alone, and all agree afterwards on whether they could: at a barrier of
        # Orbax's they would wait for one that cannot.
        me = jax.process_index()
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}
            ),
        )

    def steps(self) -> list[int]:
        """All that are whole, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, trees: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Saves trees of numpy arrays and a record of JSON values in the background."""
        saved = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        args = ocp.args.Composite(**saved, **{RECORD: ocp.args.JsonSave(record)})
        self._manager.save(step, args=args)
        self._saving = True

    def load(self, step: int, trees: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trees like those given, and the record; on this host alone."""
        wanted = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        args = ocp.args.Composite(**wanted, **{RECORD: ocp.args.JsonRestore()})
        restored = self._reader.restore(self._folder / str(step), args=args)
        return {name: restored[name] for name in trees}, dict(restored[RECORD])

    def has_ended(self) -> bool:
        """Whether a save has ended, well or not, and nobody has waited for it since."""
        if not self._saving:
            return False
        return self._manager.failure is not None or not self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Returns when the save in progress is whole on disk."""
        self._saving = False
        self._manager.wait_until_finished()

    def look_again(self) -> None:
        """After steps were moved away."""
        self._manager.reload()

    def close(self) -> None:
        """Waits, then lets go of threads."""
        self._manager.close()
        self._reader.close()


class Kept:
    """Orbax's question of which steps to keep, answered."""

    def __init__(self, kept: Callable[[list[int]], set[int]]):
        self._kept = kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each of the checkpoints, oldest first; the signature is Orbax's."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._kept(steps)
        return [step in kept for step in steps]


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
