"""Stops a run between two steps when a signal asks for it, in all processes after the same step."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupts:
    """Turns SIGTERM and Ctrl-C into a stop request that the loop polls.

    Used as `with Interrupts() as interrupts:`. A second Ctrl-C raises KeyboardInterrupt at once. If
    one of several processes gets a signal, or a preemption notice of its platform, all of them
    stop. Outside the main thread, where Python allows no handlers, signals keep their effect.
    """

    def __init__(self) -> None:
        self._requested = False
        self._polls = 0
        self._several_processes = jax.process_count() > 1
        self._previous: dict[signal.Signals, Any] = {}  # handlers to restore

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGINT]
            # With several processes JAX itself handles SIGTERM, and tells all of them.
            if not self._several_processes:
                signals.append(signal.SIGTERM)
            self._previous = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        if self._several_processes:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's handler stops all processes
        else:
            self._requested = True

    def should_stop(self) -> bool:
        """Returns whether to stop now. All processes must call this the same number of times."""
        self._polls += 1
        if self._several_processes and multihost_utils.reached_preemption_sync_point(self._polls):
            self._requested = True
        return self._requested
