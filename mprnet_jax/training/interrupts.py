"""Ends a run between two steps when a signal asks for it, on all hosts after the same step."""

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupts:
    """Turns SIGTERM and Ctrl-C into a wish that the loop asks for: `with Interrupts() as asked:`.

    A second Ctrl-C interrupts at once. Several hosts agree on when they stop: one that gets the
    signal, or a notice of preemption where the platform gives one, stops all.
    """

    def __init__(self):
        self._asked = False
        self._questions = 0
        self._several = jax.process_count() > 1
        self._before = {}

    def __enter__(self) -> "Interrupts":
        # Only the main thread may; and among several hosts SIGTERM is JAX's own, which tells all.
        if threading.current_thread() is threading.main_thread():
            signals = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
            self._before = {number: signal.signal(number, self._ask) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._asked = True

    def stop(self) -> bool:
        """Whether to stop now; all hosts must ask equally often."""
        self._questions += 1
        if self._several and multihost_utils.reached_preemption_sync_point(self._questions):
            self._asked = True
        return self._asked
