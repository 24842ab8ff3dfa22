"""Several processes, on one host or many, that train together through `jax.distributed`."""

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mprnet_jax.errors import UserError, one_line

# What JAX's errors speak of when another process has gone, in any of the libraries below it.
LOST = re.compile(
    r"^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)|connect|heartbeat|peer|another task"
    r"|coordination service|barrier|in error|gloo|nccl",
    re.IGNORECASE,
)
HEARTBEAT_SECONDS = 30  # a process that is silent for so long counts as gone


def join(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins the other processes of a run; must come before any other use of JAX.

    Args:
        coordinator: HOST:PORT of process 0; found by itself on TPU pods, SLURM and Open MPI, as are
            the others.
        count: of processes.
        index: of this process, from 0.

    Raises:
        UserError: if they cannot be found or reached.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, TypeError, LookupError, RuntimeError, OSError) as error:
        raise UserError(
            f"--distributed: the processes do not come together ({error}); give "
            "--coordinator=HOST:PORT of process 0, --num_processes and --process_id to each"
        ) from error


def on_all(flags: np.ndarray) -> np.ndarray:
    """Which of these bool [N] are true in all processes."""
    return multihost_utils.process_allgather(flags).reshape(-1, len(flags)).all(axis=0)


def check_shared(folder: Path) -> None:
    """Makes sure that all processes see one and the same folder, which is made if need be.

    Raises:
        UserError: in all of them if one sees another, or cannot make it.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31)))
    mark = folder / f".seen-by-all-{number}"
    sees, reason = False, "it is another one"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            mark.touch()
    except OSError as error:
        reason = one_line(error)
    multihost_utils.sync_global_devices("a mark is in the shared folder")
    with contextlib.suppress(OSError):
        sees = mark.exists()
    seen = on_all(np.array([sees]))[0]
    with contextlib.suppress(OSError):
        mark.unlink(missing_ok=True)
    if seen:
        return
    if jax.process_index() == 0:
        time.sleep(2)  # others come to tell it too: they end when this process does
    raise UserError(
        f"{folder}: is not one and the same folder on all hosts"
        + ("" if sees else f" (here: {reason})")
        + "; give a --workdir on a file system that all of them mount"
    )


@contextlib.contextmanager
def report_lost_host() -> Iterator[None]:
    """Turns what happens when another process has gone, which JAX may tell in many words, into a
    UserError.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not LOST.search(str(error)):
            raise
        raise UserError(
            f"process {jax.process_index()}: another process of this run is gone, or cannot be "
            f"reached ({one_line(error)}). The checkpoints are kept: start the same command on all "
            "hosts again"
        ) from error
