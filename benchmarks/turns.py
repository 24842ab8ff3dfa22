"""Measures contenders in turn (A B A B), each in a process of its own.

Own processes keep one framework's threads and memory out of another's figures, and tell the peak of
each. Those that wait for their turn sleep.
"""

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from unittest.mock import patch

from benchmarks.limit import Limit
from benchmarks.work import Contender, Program, Work

TURN_SECONDS = 0.5  # a turn calls quick work as often as fits
END_SECONDS = 5  # that a process may take to end by itself
CACHES = (
    "JAX_COMPILATION_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "CUDA_CACHE_PATH",
)


@dataclass
class Outcome:
    """What came of one contender at one piece of work."""

    contender: str
    failure: str = ""  # why there are no figures
    first: float = math.nan  # seconds of the first call, compiling included
    seconds: list[float] = field(default_factory=list)  # of a call, one for each turn
    peak: int = 0  # bytes: of the device, or of the process on CPUs

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds) if self.seconds else math.nan


def measure(
    work: Work, contenders: Iterable[Contender], rounds: int, environment: dict[str, str]
) -> list[Outcome]:
    """Lets all contenders do the work in turn, `rounds` times; for CPUs, where all fit at once."""
    workers = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for contender in contenders:
            if contender.takes_part(work):
                caches = compile_caches(f"{folder}/{len(workers)}")
                worker = Worker(contender, work, environment | caches, Outcome(contender.name))
                worker.start_compiling()
                worker.compiled()  # one after another: they compile on all cores
                worker.prepare()
                workers.append(worker)
        for _ in range(rounds):
            for worker in workers:
                worker.turn()
        for worker in workers:
            worker.read_peak()
            worker.end()
    return [worker.outcome for worker in workers]


def compile_caches(folder: str) -> dict[str, str]:
    """Environment by which compilers keep what they compile in a folder: empty for a first call."""
    return {name: f"{folder}/{name.lower()}" for name in CACHES}


class Worker:
    """A process that does one contender's work when told to.

    After a failure, or when the limit's time is over, the process is gone and nothing more happens.
    """

    def __init__(
        self,
        contender: Contender,
        work: Work,
        environment: dict[str, str],
        outcome: Outcome,
        limit: Limit | None = None,
    ):
        self.outcome = outcome
        self.alive = True
        self._limit = limit or Limit()
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, contender, work), daemon=True)
        with patch.dict(os.environ, environment):  # malloc reads its part before Python starts
            self._process.start()
        other.close()

    def start_compiling(self) -> None:
        """Lets the process import, build and compile; `compiled` waits for it."""
        self._send("compile")

    def compiled(self) -> None:
        """Waits until the program is compiled."""
        seconds = self._receive()
        if seconds is not None and math.isnan(self.outcome.first):
            self.outcome.first = seconds

    def prepare(self) -> None:
        """The first call, a second since some compilers go on, and one to find out how many fit."""
        first, _, again = (self._ask(1) for _ in range(3))
        if again is not None:
            if not self.outcome.seconds:
                self.outcome.first += first
            self._calls = max(1, int(TURN_SECONDS / again))

    def turn(self) -> None:
        """Takes one measurement, after a call that does not count.

        While others had their turns, the system took caches and freed memory away, and threads of
        the last one may still spin: work that goes on and on does not know of that.
        """
        if self._ask(1) is not None:
            seconds = self._ask(self._calls)
            if seconds is not None:
                self.outcome.seconds.append(seconds / self._calls)

    def held(self) -> float:
        """The share of an accelerator's memory that the process keeps while it waits."""
        return self._ask("held") or 0.0

    def read_peak(self) -> None:
        """Asks for the peak of memory."""
        peak = self._ask("peak")
        if peak is not None:
            self.outcome.peak = int(peak)

    def pause(self) -> None:
        """Stops the process and those that it started, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undoes `pause`."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the process, which gives its memory back."""
        self.pipe.close()
        self._process.join(END_SECONDS if self.alive else 0)
        self.kill()

    def kill(self) -> None:
        """Ends the process, and those that it started, whatever they are doing."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # it is about to make its group, or has ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _ask(self, message: int | str) -> float | None:
        """Sends a message, see `serve`, and returns the answer; None after a failure."""
        self._send(message)
        return self._receive()

    def _send(self, message: int | str) -> None:
        if self.alive:
            with contextlib.suppress(OSError):  # then there is no answer either
                self.pipe.send(message)

    def _receive(self) -> float | None:
        if not self.alive:
            return None
        seconds = self._limit.left()
        try:
            if not self.pipe.poll(None if math.isinf(seconds) else max(0.0, seconds)):
                self.kill()
                if not self.outcome.seconds:
                    self.outcome.failure = self._limit.told
                return None
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = f"ended with status {self._process.exitcode}"  # -9: out of memory, mostly
        if isinstance(answer, str):
            self.outcome.failure = answer
            self.kill()  # its memory is for others
            return None
        return answer


def serve(pipe: Connection, contender: Contender, work: Work) -> None:
    """The worker's process: answers messages with a number, or with why it failed.

    "compile" and a number of calls are answered with the seconds that they took, "peak" with bytes,
    and "held" with the share of the device's memory that is kept.
    """
    os.setpgrp()  # so that signals reach those that it starts
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # exporters are talkative
    from benchmarks.contenders import build

    program = None
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        try:
            program = program or build(contender, work)
            pipe.send(answer(program, message))
        except ImportError as error:
            pipe.send(f"{error.name} is not installed")
        except Exception as error:  # a peer may fail in any way: the table tells it
            pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:120])


def answer(program: Program, message: int | str) -> float:
    """Does what a message asks for; see `serve`."""
    if message == "held":
        return program.held()
    if message == "peak":
        used = program.peak()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if used is None else used
    start = time.perf_counter()
    if message == "compile":
        program.compile()
    else:
        program.run(message)
    return time.perf_counter() - start
