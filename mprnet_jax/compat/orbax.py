"""Patches of Orbax and TensorStore: less memory, folders of any name, prompt errors, quiet logs.

Orbax's `experimental.v1` needs them too: it saves through the same manager and private modules.
"""

import asyncio
import copy
import functools
import glob
import json
import os
import sys
import time
import types
from collections.abc import Iterator
from logging import LogRecord
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from etils import epath

from mprnet_jax.compat import warn_once

LIBRARY = "orbax-checkpoint"  # on PyPI
FOLDER = os.path.dirname(ocp.__file__)


class Manager(ocp.CheckpointManager):
    """Orbax's manager, which raises the error of a failed save at once and ignores preemption.

    Reason: Orbax raises the error of a save in the background only after a barrier of all hosts.
        Hosts that wait for a file of the failed host reach the barrier after ten minutes.
    Tried with: orbax-checkpoint 0.12.6 to 0.12.8.
    Upstream: no issue (google/orbax#605 is about one host, and fixed).
    Remove when: `wait_until_finished` raises before the barrier.
    """

    failure: Exception | None = None  # of the save in the background on this host

    def __init__(self, *args: Any, **kwargs: Any):
        if not hasattr(ocp.CheckpointManager, "_wait_for_checkpointers"):
            warn_once(
                LIBRARY, "if one host cannot save, the others end only after about ten minutes"
            )
        super().__init__(*args, **kwargs)

    def _wait_for_checkpointers(self) -> None:
        try:
            super()._wait_for_checkpointers()
        except Exception as error:  # reason: `wait_until_finished` needs it; raised again
            self.failure = error
            raise

    def wait_until_finished(self) -> None:
        """Waits until the save in progress is on disk; raises the error if it fails."""
        while jax.process_count() > 1 and self.is_saving_in_progress():
            if self.failure:
                raise self.failure
            time.sleep(0.005)
        super().wait_until_finished()

    def reached_preemption(self, step: int) -> bool:
        """Returns False: `training.interrupts` handles preemption.

        Orbax asks JAX at other steps than training does, and then the hosts do not agree on the
        step after which to stop. A public method: nothing to remove.
        """
        return False


def apply_patches(*, in_bucket: bool) -> None:
    """Applies the patches that are not subclasses; further calls change nothing."""
    cache_resolved_specs()
    if in_bucket:
        limit_retries()
    take_folders_literally()
    hide_logs()
    hide_abandoned_writes()


def cache_resolved_specs() -> None:
    """Keeps the memory of training constant over any number of saves.

    Reason: for each array Orbax calls TensorStore's `KvStore.Spec.to_json`, which leaks the strings
        that it returns: 700 bytes a call, 0.4 MB in a save of 800 arrays. Orbax is given a class
        that calls it once for each folder.
    Tried with: orbax-checkpoint 0.12.6 to 0.12.8, tensorstore 0.1.71 to 0.1.86.
    Upstream: none known.
    Remove when: `tests/weights/test_checkpoints.py::test_saves_leave_no_memory_behind` passes
        without it.
    """
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils
    except ImportError:
        tensorstore_utils = None
    if not hasattr(tensorstore_utils, "ts"):
        warn_once(LIBRARY, "each checkpoint leaks about 0.4 MB of memory")
        return
    kvstore = types.SimpleNamespace(Spec=CachedSpec, open=_open_kvstore)
    tensorstore_utils.ts = types.SimpleNamespace(**vars(tensorstore) | {"KvStore": kvstore})


class CachedSpec:
    """Replaces `tensorstore.KvStore.Spec` in Orbax."""

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec

    def to_json(self) -> dict[str, Any]:
        """Returns the spec with TensorStore's defaults filled in."""
        return copy.deepcopy(_resolve(json.dumps(self.spec)))  # Orbax may change it

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorstore.KvStore.Spec(self.spec), name)


@functools.lru_cache(maxsize=16)
def _resolve(spec: str) -> dict[str, Any]:
    return tensorstore.KvStore.Spec(json.loads(spec)).to_json()


def _open_kvstore(spec: CachedSpec, **kwargs: Any) -> Any:
    """Replaces `tensorstore.KvStore.open` in Orbax."""
    return tensorstore.KvStore.open(spec.spec, **kwargs)


# About a minute, as gcsfs does too; TensorStore's own is a quarter of an hour.
RETRIES = {"max_retries": 7, "initial_delay": "1s", "max_delay": "16s"}


def limit_retries() -> None:
    """Ends a save to a bucket that is gone in minutes.

    Reason: TensorStore asks 32 times, with longer and longer waits in between, and Orbax has no
        option for that.
    Tried with: orbax-checkpoint 0.12.6 to 0.12.8, tensorstore 0.1.84 to 0.1.86.
    Upstream: none known.
    Remove when: Orbax's options take a TensorStore context.
    """
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils as utils

        contexts = [utils._BASE_TS_CONTEXT, utils._DEFAULT_OCDBT_TS_CONTEXT]
    except (ImportError, AttributeError):
        warn_once(LIBRARY, "it takes a quarter of an hour until a bucket counts as gone")
        return
    for context in contexts:
        context["gcs_request_retries"] = RETRIES


# Less than a byte a second, for so long.
STALLED = {"LOW_SPEED_TIME_SECONDS": "30", "LOW_SPEED_LIMIT_BYTES": "1"}


def notice_stalls() -> None:
    """Makes TensorStore send a request again that stalls for 30 seconds.

    Reason: it waits for an answer as long as the system keeps the connection. The variables are
        documented; JAX sets them to 60 seconds on TPU VMs. They are read at the first request, but
        set when this module is imported: once other threads run, which read the environment, a new
        variable may crash the process.
    Tried with: tensorstore 0.1.86.
    Upstream: google/tensorstore#291.
    Remove when: TensorStore has a limit of its own.
    """
    for name, value in STALLED.items():
        os.environ.setdefault(f"TENSORSTORE_CURL_{name}", value)


notice_stalls()


def take_folders_literally() -> None:
    """Makes Orbax save arrays below folders with brackets in their names.

    Reason: `epath.Path.glob` takes the names of the folder and its parents for patterns too. Below
        `runs[1]` Orbax does not find the arrays that it has just written, and saves a checkpoint
        without any.
    Tried with: etils 1.12 to 1.15.
    Upstream: none known.
    Remove when: `tests/weights/test_checkpoints.py::test_folders_with_odd_names` passes without it.
    """
    path = type(epath.Path(os.sep))
    if path.glob is not _glob:
        _glob.original = path.glob  # type: ignore[attr-defined]
        path.glob = _glob


def _glob(self: epath.Path, pattern: str) -> Iterator[epath.Path]:
    """Replaces `epath.Path.glob`."""
    folder = os.fspath(self)
    if "://" in folder or "**" in pattern:
        return _glob.original(self, pattern)  # type: ignore[attr-defined]
    return map(epath.Path, glob.glob(os.path.join(glob.escape(folder), pattern)))


def hide_logs() -> None:
    """Drops Orbax's log records.

    Reason: Orbax logs the traceback of a failed save several times, which hides our one line. It
        has no logger of its own that could be disabled.
    Tried with: orbax-checkpoint 0.12.6 to 0.12.8. If Orbax changes, its logs appear again.
    Upstream: none known.
    Remove when: Orbax has a logger of its own.
    """
    logging.get_absl_logger().addFilter(_is_not_from_orbax)


def _is_not_from_orbax(record: LogRecord) -> bool:
    return not record.pathname.startswith(FOLDER)


def hide_abandoned_writes() -> None:
    """Drops TensorStore's reports of writes that a failed save has abandoned.

    Reason: for each such array a thread of TensorStore calls a method of the event loop that has
        been closed. The error reaches nobody but `sys.unraisablehook`, which prints it.
    Tried with: tensorstore 0.1.71 to 0.1.86. If TensorStore changes, its reports appear again.
    Upstream: none known.
    Remove when: a save to a full disk prints nothing without it.
    """
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


class _UnraisableHook:
    """Calls the previous hook, except for reports of abandoned writes."""

    def __init__(self, previous: Any):
        self.previous = previous

    def __call__(self, unraisable: Any) -> None:
        if not _is_abandoned_write(unraisable):
            self.previous(unraisable)


def _is_abandoned_write(unraisable: Any) -> bool:
    """Returns whether native code has called a closed event loop, without Python in between."""
    outermost = unraisable.exc_traceback
    return (
        str(unraisable.exc_value) == "Event loop is closed"
        and outermost is not None
        and outermost.tb_frame.f_code is asyncio.BaseEventLoop.call_soon_threadsafe.__code__
    )
