"""Patches of Orbax and TensorStore: less memory, prompt errors, quiet logs.

All were tried with orbax-checkpoint 0.12.6 to 0.12.8 and tensorstore 0.1.71 to 0.1.86. Orbax's
`experimental.v1` needs them too: it saves through the same manager and the same private modules.
"""

import functools
import json
import os
import sys
import time
import types
from logging import LogRecord
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from mprnet_jax.compat import warn_once

LIBRARY = "orbax-checkpoint"  # on PyPI
FOLDER = os.path.dirname(ocp.__file__)


class Manager(ocp.CheckpointManager):
    """Orbax's manager, which raises the error of a failed save at once and ignores preemption.

    Orbax raises the error of a save in the background after all hosts have met at a barrier. Those
    that wait for a file of the failed host get there after ten minutes. There is no upstream issue
    (google/orbax#605 is about one host, and solved). This can go when `wait_until_finished` raises
    before the barrier.
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
        except Exception as error:  # reason: kept for `wait_until_finished`, and raised again
            self.failure = error
            raise

    def wait_until_finished(self) -> None:
        """Waits until the save in progress is on disk; raises what it failed with."""
        while jax.process_count() > 1 and self.is_saving_in_progress():
            if self.failure:
                raise self.failure
            time.sleep(0.005)
        super().wait_until_finished()

    def reached_preemption(self, step: int) -> bool:
        """Returns False: `training.interrupts` handles preemption.

        Orbax would ask JAX at other steps than training does, and then the hosts do not agree on
        the step to stop after. A public method: this may stay.
        """
        return False


def apply_patches() -> None:
    """Applies what is not a subclass; may be called again."""
    cache_resolved_specs()
    hide_logs()
    hide_abandoned_writes()


def cache_resolved_specs() -> None:
    """Keeps the memory of training constant over any number of saves.

    For each array Orbax calls TensorStore's `KvStore.Spec.to_json`, which leaks the strings that it
    returns: 700 bytes a call, 0.4 MB in a save of 800 arrays. So Orbax gets a stand-in that calls
    it once for each folder. There is no upstream issue. This can go when
    `tests/weights/test_checkpoints.py::test_saves_leave_no_memory_behind` passes without it.
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
    """Stands in for `tensorstore.KvStore.Spec` where Orbax uses it."""

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec

    def to_json(self) -> dict[str, Any]:
        """Returns the spec with TensorStore's defaults filled in."""
        return dict(_resolve(json.dumps(self.spec)))

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorstore.KvStore.Spec(self.spec), name)


@functools.lru_cache(maxsize=16)
def _resolve(spec: str) -> dict[str, Any]:
    return tensorstore.KvStore.Spec(json.loads(spec)).to_json()


def _open_kvstore(spec: CachedSpec, **kwargs: Any) -> Any:
    """Stands in for `tensorstore.KvStore.open`."""
    return tensorstore.KvStore.open(spec.spec, **kwargs)


def hide_logs() -> None:
    """Drops Orbax's log records.

    Orbax logs the traceback of a failed save several times, which buries our one line. It has no
    logger of its own that could be silenced. This can go when it has one. Nothing breaks if Orbax
    changes: its logs appear again.
    """
    logging.get_absl_logger().addFilter(_is_not_from_orbax)


def _is_not_from_orbax(record: LogRecord) -> bool:
    return not record.pathname.startswith(FOLDER)


def hide_abandoned_writes() -> None:
    """Drops TensorStore's reports of writes that a failed save has abandoned.

    For each such array TensorStore raises "Event loop is closed" in a thread of its own, where only
    `sys.unraisablehook` sees it. There is no upstream issue. This can go when a save to a full disk
    prints nothing. Nothing breaks if TensorStore changes: its reports appear again.
    """
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


class _UnraisableHook:
    """Passes all but reports of abandoned writes on to the hook that was set before."""

    def __init__(self, before: Any):
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.before(unraisable)
