"""glibc's malloc, set through ctypes."""

import ctypes

from mprnet_jax.compat import warn_once

M_ARENA_MAX = -8  # from malloc.h


def limit_arenas(count: int = 2) -> None:
    """Limits the number of heaps (arenas) that threads share from now on, where malloc is glibc's.

    Why: glibc makes up to eight arenas for each core. Threads that come and go, as for every
    checkpoint, leave each of them a little fuller, so that a process grows for hours (measured in
    benchmarks/NOTES.md). `mallopt` is documented, but Python has no call for it, and the
    environment variable MALLOC_ARENA_MAX would have to be set before the process starts.

    Tried with: glibc 2.36. Without glibc (musl, macOS) there are no arenas, and nothing is done.
    Upstream: no issue, glibc means it so.
    Can go: when saving a checkpoint starts no threads.

    Args:
        count: the number of arenas.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and not set_option(M_ARENA_MAX, count):  # it returns 1 for success
        warn_once("glibc", "memory may grow in long runs; set MALLOC_ARENA_MAX=2 to prevent that")
