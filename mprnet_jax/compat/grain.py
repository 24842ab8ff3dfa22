"""Prepares the process before grain starts worker processes."""

from multiprocessing import resource_tracker

from absl import flags

from mprnet_jax.compat import warn_once


def prepare_for_workers() -> None:
    """Makes this process ready to start grain's worker processes; call it before iterating."""
    _mark_flags_as_parsed()
    _start_resource_tracker()


def _mark_flags_as_parsed() -> None:
    """Marks absl's flags as parsed if `absl.app` has not parsed them.

    Reason: grain reads a flag of its own before it starts workers, which fails with
        UnparsedFlagAccessError in programs and notebooks that do not use `absl.app`.
    Tried with: grain 0.2.16 to 0.2.18.
    Upstream: google/grain#1355, fixed by google/grain#1362.
    Remove when: setup.cfg requires a release of grain with that fix.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_resource_tracker() -> None:
    """Starts the resource tracker of `multiprocessing`, which otherwise starts with the workers.

    Reason: workers inherit the blocked signals of the thread that starts them; they are blocked so
        that Ctrl-C reaches the main process only. Starting the tracker unblocks them.
    Tried with: Python 3.11 to 3.13; `ensure_running` is exported but not documented.
    Upstream: python/cpython#127586, fixed by python/cpython#127587 after 3.13.1.
    Remove when: setup.cfg allows only Pythons with that fix.
    """
    start = getattr(resource_tracker, "ensure_running", None)
    if start is None:
        warn_once(
            "multiprocessing",
            "worker processes may end on Ctrl-C before training has saved a checkpoint",
        )
    else:
        start()
