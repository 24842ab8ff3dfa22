"""Measures within a time limit: programs are compiled side by side, but timed alone.

Each contender has a process for each piece of work, so imports and compiling overlap. While one is
timed, those that compile are stopped with all their threads and children (SIGSTOP), and the others
sleep. PyTorch frees a GPU's memory between rounds, JAX does not: a process that keeps much memory
is replaced by a new one, which finds its program in the compile cache.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from pathlib import Path

from benchmarks.limit import Limit
from benchmarks.work import Contender, Work
from benchmarks.workers import Outcome, Worker, compile_caches

HELD = 0.03  # share of a device's memory that a process may keep while others are measured
ALIVE = 24  # processes that may exist at a time
CLOSING = 0.2  # share of the time at the end, when only compiled programs are measured


class Task:
    """One contender with one piece of work, and its process."""

    def __init__(self, contender: Contender, work: Work, environment: dict[str, str], limit: Limit):
        self.outcome = Outcome(contender.name)
        self.worker: Worker | None = None
        self.compiling = False
        self._renewed = self._retried = False
        self._contender, self._work = contender, work
        self._environment, self._limit = environment, limit

    @property
    def settled(self) -> bool:
        """Whether it can be measured, or has failed."""
        return self.worker is not None and not self.compiling

    def begin(self) -> None:
        """Starts a process, which begins to compile."""
        self.worker = Worker(
            self._contender, self._work, self._environment, self.outcome, self._limit
        )
        self.worker.start_compiling()
        self.compiling = True

    def renew(self) -> None:
        """Replaces the process by a new one."""
        self.worker.end()
        self.begin()

    def compiled(self) -> None:
        """Handles the end of compiling."""
        self.compiling = False
        self.worker.compiled()
        self.retry_memory()
        if self.settled and self.worker.held() > HELD and not self._renewed:  # of autotuning
            self._renewed = True
            self.renew()

    def retry_memory(self) -> None:
        """Starts a new process after a first lack of memory, which another may have caused."""
        if "memory" in self.outcome.failure.lower() and not self._retried:
            self._retried, self.outcome.failure = True, ""
            self.renew()

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self.compiling:
            self.worker.kill()
        elif self.worker:
            self.worker.end()
        self.compiling = False
        if not (self.outcome.seconds or self.outcome.failure):
            self.outcome.failure = self._limit.message


class Schedule:
    """Measures pieces of work, the most important first."""

    def __init__(
        self,
        works: Iterable[Work],
        contenders: Iterable[Contender],
        rounds: int,
        environment: dict[str, str],
        limit: Limit,
        at_once: int,
    ):
        """Prepares to measure.

        Args:
            works: the most important first.
            contenders: measured in alternation.
            rounds: measurements of each; an odd number becomes the next even one.
            environment: variables of the processes.
            limit: when to end.
            at_once: number of processes that compile side by side.
        """
        self._limit, self._rounds, self._at_once = limit, rounds, at_once
        self._closing = limit.part(1 - CLOSING)
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._tasks: dict[Work, list[Task]] = {work: [] for work in works}
        for i, work in enumerate(self._tasks):
            for j, contender in enumerate(contenders):
                if contender.takes_part(work):
                    caches = compile_caches(str(Path(self._folder.name) / f"{i}-{j}"))
                    task = Task(contender, work, environment | caches, limit)
                    self._tasks[work].append(task)

    def run(self) -> Iterator[tuple[Work, list[Outcome]]]:
        """Yields each piece of work with its outcomes, as soon as it is measured."""
        pending = list(self._tasks)
        try:
            while (work := self._next(pending)) is not None:
                self._measure(self._tasks[work])
                pending.remove(work)
                yield work, self._end(work)
        finally:
            for work in pending:
                self._end(work)
            self._folder.cleanup()
        for work in pending:
            yield work, self._end(work)

    def _end(self, work: Work) -> list[Outcome]:
        for task in self._tasks[work]:
            task.end()
        return [task.outcome for task in self._tasks[work]]

    def _next(self, pending: list[Work]) -> Work | None:
        """Returns the first work with all programs compiled; near the end, with any compiled."""
        while pending and self._closing.left() > 0:
            self._start_compiling(pending)
            for work in pending:
                if all(task.settled for task in self._tasks[work]):
                    return work
            self._wait(self._closing)
        if self._limit.left() <= 0:
            return None
        return next((w for w in pending if any(task.settled for task in self._tasks[w])), None)

    def _compiling(self) -> list[Task]:
        return [task for tasks in self._tasks.values() for task in tasks if task.compiling]

    def _start_compiling(self, pending: list[Work]) -> None:
        """Starts as many processes as allowed, the most important first."""
        tasks = [task for work in pending for task in self._tasks[work]]
        alive = sum(task.worker is not None and task.worker.alive for task in tasks)
        allowed = min(self._at_once - len(self._compiling()), ALIVE - alive)
        for task in [task for task in tasks if task.worker is None][: max(0, allowed)]:
            task.begin()

    def _wait(self, limit: Limit) -> None:
        """Waits until a program is compiled, or until the limit."""
        tasks = {task.worker.pipe: task for task in self._compiling()}
        timeout = max(0.0, limit.left()) if limit.left() < float("inf") else None
        for pipe in connection.wait(list(tasks), timeout):
            tasks[pipe].compiled()

    def _measure(self, tasks: list[Task]) -> None:
        """Measures each contender twice, in alternation (A B A B)."""
        known = [task for task in tasks if task.settled]
        for visit in range(2):
            for task in known:
                while task.compiling and self._closing.left() > 0:
                    self._wait(self._closing)
                if not task.settled:
                    continue
                with self._alone():
                    task.worker.prepare()
                    for _ in range(-(-self._rounds // 2)):
                        task.worker.measure_round()
                    task.worker.read_peak()
                if self._compiling():
                    task.retry_memory()
                if visit == 0 and task.settled and task.worker.held() > HELD:
                    task.renew()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Stops the processes that compile within this context."""
        others = [task.worker for task in self._compiling()]
        for worker in others:
            worker.pause()
        try:
            yield
        finally:
            for worker in others:
                worker.resume()
