"""How much memory a compiled program takes on a device, and how much there is to take. In bytes."""

import contextlib
import ctypes
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from mprnet_jax.errors import UserError, one_line

# XLA's convolutions on CPUs reserve address space that they never touch: with it, programs were
# measured to take up to 2.6 times what they hold.
ADDRESS_SPACE = 3

# In JAX's errors that tell of too little; a GPU's compiler tries convolutions, which may not fit.
OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|Autotuning failed|No valid config found")
M_ARENA_MAX = -8  # of glibc's mallopt


class OutOfMemory(UserError):
    """A device's memory is too small for what it was to do."""


def program_bytes(program: jax.stages.Compiled) -> int:
    """What running the program takes besides its arguments, by the compiler's own account; 0 where
    it gives none.
    """
    stats = program.memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes if stats else 0


def available_bytes(devices: Sequence[jax.Device], limit: int | None = None) -> float:
    """What each of these devices still has, or would have if this process were held to `limit`;
    infinite where a device does not tell. A GPU that others use too has less.
    """
    if devices[0].platform == "cpu":
        room, used = available_host_bytes(), this_process().memory_info().rss
    else:
        stats = devices[0].memory_stats() or {}
        used = stats.get("bytes_in_use", 0)
        room = stats.get("bytes_limit", math.inf) - used
    if limit is not None:
        room = min(room, limit - used)
    if devices[0].platform == "cpu":  # all of them share the machine's memory
        room //= len(devices)
    return max(0, room)


@contextlib.contextmanager
def report_out_of_memory(remedy: str) -> Iterator[None]:
    """Turns JAX's error for too little memory on a device into `OutOfMemory` with what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not OUT_OF_MEMORY.search(str(error)):
            raise
        raise OutOfMemory(
            f"the device's memory is too small ({one_line(error)}): {remedy}"
        ) from error


def available_host_bytes() -> int:
    """What this process can still take of the machine's memory: the least of what the machine has
    left, what its control groups leave it, and what its own limit on address space leaves it.
    """
    import psutil

    rooms = [psutil.virtual_memory().available, *available_cgroup_bytes()]
    if psutil.LINUX:
        limit, _ = this_process().rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            rooms.append((limit - this_process().memory_info().vms) // ADDRESS_SPACE)
    return min(rooms)


def this_process():
    """A `psutil.Process`; imported here, so that the package loads where psutil is missing."""
    import psutil

    return psutil.Process()


def limit_malloc_arenas() -> None:
    """Lets threads share two heaps from now on, where malloc is glibc's.

    It would make eight for each core, and threads that come and go, as with every checkpoint, leave
    each of them a little fuller for hours.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_ARENA_MAX, 2)


def available_cgroup_bytes(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
):
    """What each of Linux's control groups around this process leaves it; containers are such."""
    rooms = []
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, kinds, path = line.split(":", 2)
        if kinds == "":  # version 2 of control groups
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top) and (group / names[0]).exists():
                rooms += _room(group, *names)
    return rooms


def _room(group: Path, limit: str, usage: str, cache: str) -> list[int]:
    allowed = (group / limit).read_text().strip()
    if allowed == "max":
        return []
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = int(stat.get(cache, 0))  # cached files make way for a program
    return [int(allowed) - int((group / usage).read_text()) + reclaimable]
