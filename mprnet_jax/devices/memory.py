"""Memory of devices: what a program takes, and what is available. In bytes."""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax

from mprnet_jax.devices import cgroups
from mprnet_jax.errors import UserError, one_line

if TYPE_CHECKING:
    import psutil

# XLA's programs for CPUs reserve address space that they never use: up to 2.6 times their memory
# was measured.
ADDRESS_SPACE = 3

# JAX's errors for too little memory. The last two are for GPUs: the compiler tries algorithms for
# a convolution and finds none that fits.
OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|Autotuning failed|No valid config found")


class OutOfMemory(UserError):
    """A device has too little memory for the work."""


def program_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes that a program needs besides its arguments, 0 if that is unknown."""
    stats = program.memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes if stats else 0


def available_bytes(devices: Sequence[jax.Device], limit: int | None = None) -> float:
    """Returns the bytes that are free on each device.

    The result is infinite for a device that does not report its memory, and too large for a GPU
    that other processes use too.

    Args:
        devices: devices of one kind.
        limit: the most bytes that this process may have in use on each device, or on all together
            if they are CPUs. Bytes in use by this process count, whatever it uses them for.
    """
    if devices[0].platform == "cpu":  # they share the machine's memory
        return available_to_process(limit) // len(devices)
    stats = devices[0].memory_stats() or {}
    used = stats.get("bytes_in_use", 0)
    available = stats.get("bytes_limit", math.inf) - used
    if limit is not None:
        available = min(available, limit - used)
    return max(0, available)


def available_to_process(limit: int | None = None) -> int:
    """Returns the bytes of the machine's memory that are free for this process.

    Args:
        limit: the most bytes that it may have in use.
    """
    available = available_host_bytes()
    if limit is not None:
        available = min(available, limit - this_process().memory_info().rss)
    return max(0, available)


@contextlib.contextmanager
def report_out_of_memory(remedy: str) -> Iterator[None]:
    """Turns JAX's errors for too little memory on a device into `OutOfMemory`.

    Args:
        remedy: what the user can do, for the end of the message.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not OUT_OF_MEMORY.search(str(error)):
            raise
        raise OutOfMemory(
            f"the device's memory is too small ({one_line(error)}): {remedy}"
        ) from error


def available_host_bytes() -> int:
    """Returns the bytes of the machine's memory that this process can still allocate.

    That is the minimum of what the machine has left, what the control groups of this process have
    left, and what its limit on address space allows.
    """
    import psutil

    available = [psutil.virtual_memory().available, *cgroups.available_bytes()]
    if limit := address_space_limit():
        available.append((limit - this_process().memory_info().vms) // ADDRESS_SPACE)
    return min(available)


def address_space_limit() -> int | None:
    """Returns the most bytes of address space that this process may have; None if it has no limit.

    Only Linux tells.
    """
    import psutil

    if not psutil.LINUX:
        return None
    limit, _ = this_process().rlimit(psutil.RLIMIT_AS)
    return None if limit == psutil.RLIM_INFINITY else limit


def this_process() -> "psutil.Process":
    """Returns this process; psutil is imported here, as the core package works without it."""
    import psutil

    return psutil.Process()
