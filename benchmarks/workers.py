"""Measures contenders in alternation (A B A B), each in a process of its own.

So the threads and memory of one framework do not affect another's figures, and each peak of memory
is known. Processes that wait sleep.
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

ROUND_SECONDS = 0.5  # a round repeats short work for as long
END_SECONDS = 5  # after which a process that does not end by itself is killed
CACHES = (
    "JAX_COMPILATION_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "CUDA_CACHE_PATH",
)


@dataclass
class Outcome:
    """The figures of one contender for one piece of work."""

    contender: str
    failure: str = ""  # why there are none
    first: float = math.nan  # seconds of the first call, including compiling
    seconds: list[float] = field(default_factory=list)  # of a call, one for each round
    peak: int = 0  # bytes of the device, on CPUs of the process

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds) if self.seconds else math.nan


def measure(
    work: Work, contenders: Iterable[Contender], rounds: int, environment: dict[str, str]
) -> list[Outcome]:
    """Measures all contenders `rounds` times in alternation, on CPUs, where all fit into memory."""
    workers = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for contender in contenders:
            if contender.takes_part(work):
                caches = compile_caches(f"{folder}/{len(workers)}")
                worker = Worker(contender, work, environment | caches, Outcome(contender.name))
                worker.start_compiling()
                worker.compiled()  # one after another, since each compiles on all cores
                worker.prepare()
                workers.append(worker)
        for _ in range(rounds):
            for worker in workers:
                worker.measure_round()
        for worker in workers:
            worker.read_peak()
            worker.end()
    return [worker.outcome for worker in workers]


def compile_caches(folder: str) -> dict[str, str]:
    """Returns the environment variables that put all compile caches into a folder."""
    return {name: f"{folder}/{name.lower()}" for name in CACHES}


class Worker:
    """A process that does one contender's work on request.

    After a failure or the time limit the process has ended, and all methods do nothing.
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
        with patch.dict(os.environ, environment):  # malloc reads its variables before Python starts
            self._process.start()
        other.close()

    def start_compiling(self) -> None:
        """Starts to import, build and compile; `compiled` waits for the end."""
        self._send("compile")

    def compiled(self) -> None:
        """Waits until the program is compiled."""
        seconds = self._receive()
        if seconds is not None and math.isnan(self.outcome.first):
            self.outcome.first = seconds

    def prepare(self) -> None:
        """Calls once, again since some compilers go on, and a third time to size a round."""
        first, _, again = (self._ask(1) for _ in range(3))
        if again is not None:
            if not self.outcome.seconds:
                self.outcome.first += first
            self._calls = max(1, int(ROUND_SECONDS / again))

    def measure_round(self) -> None:
        """Takes one measurement, after a call that does not count.

        While others were measured, caches and freed memory were lost, and threads of the last
        contender may still spin. Work that is repeated all the time would not suffer from that.
        """
        if self._ask(1) is not None:
            seconds = self._ask(self._calls)
            if seconds is not None:
                self.outcome.seconds.append(seconds / self._calls)

    def held(self) -> float:
        """Returns the share of an accelerator's memory that the process keeps while it waits."""
        return self._ask("held") or 0.0

    def read_peak(self) -> None:
        """Reads the peak of memory."""
        peak = self._ask("peak")
        if peak is not None:
            self.outcome.peak = int(peak)

    def pause(self) -> None:
        """Stops the process and its children until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continues after `pause`."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the process, which frees its memory."""
        self.pipe.close()
        self._process.join(END_SECONDS if self.alive else 0)
        self.kill()

    def kill(self) -> None:
        """Kills the process and its children."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # it has not made its group yet, or has ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _ask(self, message: int | str) -> float | None:
        """Sends a message of `serve` and returns the answer; None after a failure."""
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
                    self.outcome.failure = self._limit.message
                return None
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = f"ended with status {self._process.exitcode}"  # -9 is mostly a lack of memory
        if isinstance(answer, str):
            self.outcome.failure = answer
            self.kill()  # frees its memory for others
            return None
        return answer


def serve(pipe: Connection, contender: Contender, work: Work) -> None:
    """Runs in the worker's process: answers each message with a number, or with an error message.

    The answer to "compile" and to a number of calls is the seconds that they took, to "peak" bytes,
    and to "held" the share of the device's memory that is kept.
    """
    os.setpgrp()  # so that signals reach its children
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # exporters print a lot
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
        except Exception as error:  # peers fail in all ways; the table shows it
            pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:120])


def answer(program: Program, message: int | str) -> float:
    """Does what a message of `serve` asks for."""
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
