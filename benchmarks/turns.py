"""Measures contenders in turn (A B A B), each in a process of its own.

Own processes keep one framework's threads and memory out of another's figures, and tell the peak of
each. Those that wait for their turn sleep. Frameworks do not give a GPU's memory back, so there one
process lives at a time, and each contender has two of them (A B A B).
"""

import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from unittest.mock import patch

from benchmarks.work import Contender, Work

TURN_SECONDS = 0.5  # a turn calls quick work as often as fits


@dataclass
class Outcome:
    """What came of one contender at one piece of work."""

    contender: str
    failure: str = ""  # why there are no figures
    first: float = math.nan  # seconds of the first call: it compiles
    seconds: list[float] = field(default_factory=list)  # of a call, one for each turn
    peak: int = 0  # bytes: of the device, or of the process on CPUs

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds) if self.seconds else math.nan


def measure(
    work: Work,
    contenders: Iterable[Contender],
    rounds: int,
    environment: dict[str, str],
    alone: bool = False,
) -> list[Outcome]:
    """Lets all contenders do the work in turn, `rounds` times, or `alone` twice half as often."""
    outcomes = {contender: Outcome(contender.name) for contender in contenders}
    outcomes = {contender: o for contender, o in outcomes.items() if contender.takes_part(work)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

        def start(number: int, contender: Contender) -> Worker:
            caches = compile_caches(f"{folder}/{number}")
            worker = Worker(contender, work, environment | caches, outcomes[contender])
            worker.prepare()  # one after another: they compile on all cores
            return worker

        if alone:
            for _ in range(2):
                for number, contender in enumerate(outcomes):
                    if not outcomes[contender].failure:
                        worker = start(number, contender)
                        for _ in range(-(-rounds // 2)):
                            worker.turn()
                        worker.end()
        else:
            workers = [start(number, contender) for number, contender in enumerate(outcomes)]
            for _ in range(rounds):
                for worker in workers:
                    worker.turn()
            for worker in workers:
                worker.end()
    return list(outcomes.values())


def compile_caches(folder: str) -> dict[str, str]:
    """Environment by which compilers keep what they compile in a folder: empty for a first call."""
    names = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {name: f"{folder}/{name.lower()}" for name in names}


class Worker:
    """A process that does one contender's work when told to."""

    def __init__(
        self, contender: Contender, work: Work, environment: dict[str, str], outcome: Outcome
    ):
        self.outcome = outcome
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, contender, work), daemon=True)
        with patch.dict(os.environ, environment):  # malloc reads its part before Python starts
            self._process.start()
        other.close()

    def _ask(self, message: int) -> float | None:
        """Sends a message and returns the answer; None where the contender failed, now or before.

        The message is how many calls to time, 0 for the peak of memory.
        """
        if self.outcome.failure:
            return None
        try:
            self._pipe.send(message)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = f"ended with status {self._process.exitcode}"  # -9: out of memory, mostly
        if isinstance(answer, str):
            self.outcome.failure = answer
            self._process.kill()  # its memory is for others
            return None
        return answer

    def prepare(self) -> None:
        """The first call, a second since some compilers go on, and one to find out how many fit."""
        first, _, again = (self._ask(1) for _ in range(3))
        if again is not None:
            if math.isnan(self.outcome.first):
                self.outcome.first = first
            self._calls = max(1, int(TURN_SECONDS / again))

    def turn(self) -> None:
        """Takes one measurement, after a call that does not count.

        While others had their turns, the system took caches and freed memory away, and threads of
        the last one may still spin: work that goes on and on does not know of that.
        """
        self._ask(1)
        seconds = None if self.outcome.failure else self._ask(self._calls)
        if seconds is not None:
            self.outcome.seconds.append(seconds / self._calls)

    def end(self) -> None:
        """Ends the process.

        Of two the second's peak counts: it finds its programs compiled, and trying kernels, which
        takes a GPU's memory, is none of the work.
        """
        peak = self._ask(0)
        if peak is not None:
            self.outcome.peak = int(peak)
        self._pipe.close()
        self._process.join()


def serve(pipe: Connection, contender: Contender, work: Work) -> None:
    """The worker's process: answers messages with seconds, bytes, or why it failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # exporters are talkative
    from benchmarks.contenders import build

    built = None
    while True:
        try:
            calls = pipe.recv()
        except EOFError:
            return
        try:
            if built is None:
                built = build(contender, work)
            run, peak = built
            if calls:
                start = time.perf_counter()
                run(calls)
                pipe.send(time.perf_counter() - start)
            else:
                used = peak()
                own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                pipe.send(own if used is None else used)
        except ImportError as error:
            pipe.send(f"{error.name} is not installed")
        except Exception as error:  # a peer may fail in any way: the table tells it
            pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:120])
