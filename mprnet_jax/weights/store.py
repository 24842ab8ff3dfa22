"""Saves and loads checkpoints with Orbax: at each step, named pytrees and a record of JSON values.

Orbax and TensorStore raise many types of errors. `report_storage_errors` separates those that a
disk or damaged files cause from bugs.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mprnet_jax import paths
from mprnet_jax.compat.orbax import Manager, apply_patches
from mprnet_jax.errors import one_line

RECORD = "record"
METADATA = "_METADATA"  # Orbax's description of a tree
METADATA_HASH = "_METADATA.sha256"  # our hash of that file
# TensorStore reports errors of files as ValueError. Its text starts with the name of a status
# ("NOT_FOUND: ...") or, if the content of a file is invalid, with the operation.
TENSORSTORE_ERROR = re.compile(
    "(ABORTED|ALREADY_EXISTS|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|"
    "NOT_FOUND|OUT_OF_RANGE|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE|"
    "UNKNOWN): "
    "|Error (opening|reading|writing) "
)


class StorageError(OSError):
    """A disk fails or files are damaged."""


@contextlib.contextmanager
def report_storage_errors() -> Iterator[None]:
    """Turns errors of Orbax that a disk or damaged files cause into StorageError.

    If the error was raised from a JaxRuntimeError or while one was handled, raises that one: a
    device or another host failed, not the disk, even if Orbax raises TimeoutError, an OSError. Any
    other error is a bug and is raised unchanged.
    """
    try:
        yield
    except Exception as error:  # reason: Orbax raises bare `Exception`s; bugs are raised again
        raise_jax_error_behind(error)
        if not is_storage_error(error):
            raise
        raise StorageError(one_line(error)) from error


def error_chain(error: BaseException, *, contexts: bool = False) -> Iterator[BaseException]:
    """Yields an error and those it was raised from.

    With `contexts`, also those during whose handling it was raised.
    """
    seen = set()  # an error that is raised again may lead back to itself
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        current = current.__cause__ or (current.__context__ if contexts else None)


def is_storage_error(error: BaseException) -> bool:
    """Returns whether a disk or a damaged file caused an error, or one it was raised from."""
    return any(
        isinstance(cause, (OSError, json.JSONDecodeError, UnicodeDecodeError))
        or (type(cause) is ValueError and TENSORSTORE_ERROR.match(str(cause)))
        for cause in error_chain(error)
    )


def raise_jax_error_behind(error: BaseException) -> None:
    """Raises the JaxRuntimeError that led to this error, if there is one."""
    for cause in error_chain(error, contexts=True):
        if isinstance(cause, jax.errors.JaxRuntimeError):
            raise cause


class Store:
    """The checkpoints in a folder, by step.

    All methods that read or write files raise StorageError as `report_storage_errors` does.
    """

    @report_storage_errors()
    def __init__(
        self,
        folder: Path,
        tree_names: Collection[str],
        steps_to_keep: Callable[[list[int]], set[int]] | None,
    ):
        """Opens or creates the folder.

        Args:
            folder: an absolute path.
            tree_names: names of the pytrees of each step.
            steps_to_keep: returns which steps to keep, given all in order; if None, the folder is
                opened to read only.
        """
        apply_patches(in_bucket=paths.is_bucket(folder))
        self._folder = folder
        self._saving = False
        # The main process lists the folder for all: on shared file systems others may see an older
        # state.
        options: dict[str, Any] = {"single_host_load_and_broadcast": True}
        if steps_to_keep is None:
            options |= {"read_only": True}
        else:
            options |= {
                "preservation_policy": PreservationPolicy(steps_to_keep),
                "cleanup_tmp_directories": True,
            }
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for name in tree_names:
            handlers.add(name, ocp.args.StandardSave, TreeHandler())
        handlers.add(RECORD, ocp.args.JsonSave)
        self._manager = Manager(
            folder, options=ocp.CheckpointManagerOptions(**options), handler_registry=handlers
        )
        # This reader does not synchronize hosts: at Orbax's barriers, a host that cannot read would
        # make the others wait. The caller compares afterwards whether all could.
        me = jax.process_index()
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}
            ),
        )

    def steps(self) -> list[int]:
        """Returns all complete steps, in order."""
        return sorted(self._manager.all_steps())

    @report_storage_errors()
    def save(self, step: int, trees: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Saves trees of numpy arrays and a record of JSON values in the background."""
        saved = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        args = ocp.args.Composite(**saved, **{RECORD: ocp.args.JsonSave(record)})
        started = self._manager.save(step, args=args)
        assert started, f"step {step} is not saved: a newer one exists, or the store only reads"
        self._saving = True

    @report_storage_errors()
    def load_record(self, step: int) -> Any:
        """Returns the record of a step; does not synchronize hosts."""
        args = ocp.args.Composite(**{RECORD: ocp.args.JsonRestore()})
        return self._reader.restore(self._folder / str(step), args=args)[RECORD]

    @report_storage_errors()
    def load_trees(self, step: int, abstract_trees: Mapping[str, Any]) -> dict[str, Any]:
        """Returns pytrees of a step by name; does not synchronize hosts.

        Args:
            step: the step.
            abstract_trees: structure, shapes, dtypes and shardings of each of the pytrees.
        """
        folder = self._folder / str(step)
        for name in abstract_trees:
            check_metadata(folder / name)
        args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract_trees.items()}
        restored = self._reader.restore(folder, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in abstract_trees}

    def save_finished(self) -> bool:
        """Returns whether a save has finished, successfully or not, since the last wait."""
        if not self._saving:
            return False
        return self._manager.failure is not None or not self._manager.is_saving_in_progress()

    @report_storage_errors()
    def wait_until_finished(self) -> None:
        """Waits until the save in progress is complete on disk."""
        self._saving = False
        self._manager.wait_until_finished()

    @report_storage_errors()
    def reload(self) -> None:
        """Lists the folder again, after steps were renamed."""
        self._manager.reload()

    @report_storage_errors()
    def close(self) -> None:
        """Waits for the save in progress, then ends Orbax's threads."""
        try:
            self._manager.close()
        finally:
            self._reader.close()


class TreeHandler(ocp.StandardCheckpointHandler):
    """Orbax's handler of trees, which also saves a hash of Orbax's metadata.

    Orbax raises KeyError and similar errors for damaged metadata. As the hash is checked first, an
    error that still occurs is a bug.
    """

    def finalize(self, directory: Any) -> None:
        """Called when all files are written, before Orbax renames the step to its final name."""
        super().finalize(directory)
        (directory / METADATA_HASH).write_text(metadata_hash(directory))


def metadata_hash(folder: Any) -> str:
    """Returns the SHA-256 of Orbax's metadata of a tree."""
    return hashlib.sha256((folder / METADATA).read_bytes()).hexdigest()


def check_metadata(folder: Path) -> None:
    """Raises an OSError if Orbax's metadata of a tree is missing or has changed.

    Checkpoints of older versions have no hash of it and are not checked.
    """
    actual, hash_file = metadata_hash(folder), folder / METADATA_HASH
    if hash_file.exists() and hash_file.read_bytes() != actual.encode():
        raise StorageError(f"the saved hash of {folder.name}/{METADATA} does not match")


class PreservationPolicy:
    """Orbax's preservation policy that calls `steps_to_keep`."""

    def __init__(self, steps_to_keep: Callable[[list[int]], set[int]]):
        self._steps_to_keep = steps_to_keep

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns whether to keep each of the checkpoints, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._steps_to_keep(steps)
        return [step in kept for step in steps]
