"""Training by several processes, on one host or many, through `jax.distributed`."""

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mprnet_jax.errors import UserError, one_line

# The errors that losing another process causes: the status codes of remote calls, and messages of
# XLA's coordination service, of Gloo (CPUs) and of NCCL (GPUs), taken from their sources. NCCL's
# "unhandled cuda error" is not among them, as that is a fault of this process's own GPU.
LOST = re.compile(
    r"^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED):"
    r"|[Cc]oordination (service|agent)|[Bb]arrier (has )?(failed|timed out|was aborted)"
    r"|[Hh]eartbeat|[Tt]asks? (are|is) unhealthy|[Aa]nother task died|already-in-error task"
    r"|Gloo [\w -]+ failed:|gloo/transport/|Connection (closed|reset) by peer|Socket closed"
    r"|ncclRemoteError|ncclSystemError|remote process exited|unhandled system error"
)
HEARTBEAT_SECONDS = 30  # a process that sends no heartbeat for so long counts as lost


def join(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins the other processes of a run; must be called before any other use of JAX.

    JAX finds all arguments by itself on TPU pods and under SLURM and Open MPI.

    Args:
        coordinator: HOST:PORT of process 0.
        count: number of processes.
        index: number of this process, from 0.

    Raises:
        UserError: if the other processes cannot be found or reached.
    """
    advice = "give --coordinator=HOST:PORT of process 0, --num_processes and --process_id to each"
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator}: has no port; {advice}")
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:  # KeyError: SLURM's variables
        raise UserError(
            f"--distributed: the processes cannot join each other ({one_line(error)}); {advice}"
        ) from error


def is_main_process() -> bool:
    """Returns whether this is process 0, which alone prints and writes what all of them share."""
    return jax.process_index() == 0


def print_on_main(text: str) -> None:
    """Prints a line in process 0 only."""
    if is_main_process():
        print(text, flush=True)


def all_processes(flags: np.ndarray) -> np.ndarray:
    """Returns bool [N], True where every process passed True; all of them must call this.

    Args:
        flags: bool [N].
    """
    return multihost_utils.process_allgather(flags).reshape(-1, len(flags)).all(axis=0)


def compile_together(function: Any, *arguments: Any) -> Callable:
    """Compiles a jitted function for these arguments, and waits until all processes have.

    On CPUs a process that comes to a program's first collective gives up if another one does not
    come within 30 seconds (Gloo's limit). With a warm compile cache process 0 would be earlier by
    all the time that compiling takes: on CPUs the others do not find their programs in it.

    Returns:
        The program; with one process, `function`, which compiles when it is called.
    """
    if jax.process_count() == 1:
        return function
    program = function.lower(*arguments).compile()
    multihost_utils.sync_global_devices("all have compiled")
    return program


def check_same_folder(folder: Path) -> None:
    """Makes a folder, and checks that it is the same one for all processes.

    With one process, does nothing.

    Raises:
        UserError: in all processes, if one of them has another folder there or cannot make it.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31)))
    mark = folder / f".seen-by-all-{number}"
    sees_mark, reason = False, "it is another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_main_process():
            mark.touch()
    except OSError as error:
        reason = one_line(error)
    multihost_utils.sync_global_devices("a mark is in the shared folder")
    with contextlib.suppress(OSError):
        sees_mark = mark.exists()
    all_see_it = all_processes(np.array([sees_mark]))[0]
    with contextlib.suppress(OSError):
        mark.unlink(missing_ok=True)
    if all_see_it:
        return
    if is_main_process():
        time.sleep(2)  # when process 0 ends, the others do; they must print the error before
    raise UserError(
        f"{folder}: is not the same folder on all hosts"
        + ("" if sees_mark else f" (here: {reason})")
        + "; give a --workdir on a file system that all of them mount"
    )


@contextlib.contextmanager
def report_lost_host() -> Iterator[None]:
    """Turns JAX's errors that are caused by the loss of another process into a UserError."""
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
