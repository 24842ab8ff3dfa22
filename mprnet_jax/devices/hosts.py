"""Several processes, on one host or many, that train together through `jax.distributed`."""

import contextlib
from collections.abc import Iterator

import jax

from mprnet_jax.errors import UserError

# How errors begin that have nothing to do with other processes.
OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
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


@contextlib.contextmanager
def losses_told() -> Iterator[None]:
    """Turns what happens when another process has gone, which JAX may tell in many words, into a
    UserError.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or str(error).startswith(OWN_FAULTS):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"process {jax.process_index()}: another process of this run is gone, or cannot be "
            f"reached ({reason}). The checkpoints are kept: start the same command on all hosts "
            "again"
        ) from error
