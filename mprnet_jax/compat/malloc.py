"""A setting of glibc's malloc, made through ctypes."""

import ctypes

from mprnet_jax.compat import warn_once

M_ARENA_MAX = -8  # from malloc.h


def limit_arenas(count: int = 2) -> None:
    """Limits the number of heaps (arenas) that malloc creates from now on; only glibc has them.

    Reason: glibc creates up to eight arenas for each core. The threads that Orbax starts for each
        checkpoint fragment all of them, so that the memory of a process grows for hours (measured
        in benchmarks/NOTES.md). `mallopt` is documented, but Python cannot call it otherwise, and
        the environment variable MALLOC_ARENA_MAX must be set before the process starts.
    Tried with: glibc 2.36. Without glibc (musl, macOS) nothing is done.
    Upstream: no issue; glibc is designed so.
    Remove when: saving a checkpoint starts no threads.

    Args:
        count: the number of arenas.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and not set_option(M_ARENA_MAX, count):  # it returns 1 for success
        warn_once("glibc", "memory may grow in long runs; set MALLOC_ARENA_MAX=2 to prevent that")
