"""Measures works within a time limit: programs are compiled side by side, and timed alone.

Each contender has a process for each work, so that importing and compiling overlap. While one of
them is timed, those that compile are stopped with all their threads and helpers (SIGSTOP), and
those that are compiled sleep. PyTorch gives a GPU's memory back between turns; JAX does not, so a
process that keeps much is replaced by a new one, which finds its program in the compile cache.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from pathlib import Path

from benchmarks.limit import Limit
from benchmarks.turns import Outcome, Worker, compile_caches
from benchmarks.work import Contender, Work

HELD = 0.03  # of a device's memory: who keeps more while others have their turns is replaced
ALIVE = 24  # processes that may wait, compiled, for their turn
CLOSING = 0.2  # of the time: then what is compiled is measured, and nothing more is waited for


class Task:
    """One contender at one work, and the process that does it."""

    def __init__(self, contender: Contender, work: Work, environment: dict[str, str], limit: Limit):
        self.outcome = Outcome(contender.name)
        self.worker: Worker | None = None
        self.compiling = False
        self._renewed = self._again = False
        self._contender, self._work = contender, work
        self._environment, self._limit = environment, limit

    @property
    def settled(self) -> bool:
        """Whether it can have its turns, or has failed."""
        return self.worker is not None and not self.compiling

    def begin(self) -> None:
        """Starts a process, which compiles."""
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
        """Takes note that the program is compiled."""
        self.compiling = False
        self.worker.compiled()
        self.once_more()
        if self.settled and self.worker.held() > HELD and not self._renewed:  # for trying kernels
            self._renewed = True
            self.renew()

    def once_more(self) -> None:
        """Starts anew after a first lack of memory: one at its first call may have had it."""
        if "memory" in self.outcome.failure.lower() and not self._again:
            self._again, self.outcome.failure = True, ""
            self.renew()

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self.compiling:
            self.worker.kill()
        elif self.worker:
            self.worker.end()
        self.compiling = False
        if not (self.outcome.seconds or self.outcome.failure):
            self.outcome.failure = self._limit.told


class Schedule:
    """Works to measure, the most important first."""

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
            works: in the order of their importance.
            contenders: who does them, in turn.
            rounds: turns of each; an odd number becomes the next even one.
            environment: of the processes.
            limit: when to end.
            at_once: how many processes compile side by side.
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
        """Each work with what came of its contenders, as soon as it is measured."""
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
        """The first work whose programs are all compiled; late, one with a compiled program."""
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
        """Starts processes in the order of importance, as many as may be."""
        tasks = [task for work in pending for task in self._tasks[work]]
        alive = sum(task.worker is not None and task.worker.alive for task in tasks)
        free = min(self._at_once - len(self._compiling()), ALIVE - alive)
        for task in [task for task in tasks if task.worker is None][: max(0, free)]:
            task.begin()

    def _wait(self, limit: Limit) -> None:
        """Waits until a program is compiled, or the limit is reached."""
        tasks = {task.worker.pipe: task for task in self._compiling()}
        timeout = max(0.0, limit.left()) if limit.left() < float("inf") else None
        for pipe in connection.wait(list(tasks), timeout):
            tasks[pipe].compiled()

    def _measure(self, tasks: list[Task]) -> None:
        """Two visits to each contender, one after the other (A B A B)."""
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
                        task.worker.turn()
                    task.worker.read_peak()
                if self._compiling():
                    task.once_more()
                if visit == 0 and task.settled and task.worker.held() > HELD:
                    task.renew()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Stops those that compile."""
        others = [task.worker for task in self._compiling()]
        for worker in others:
            worker.pause()
        try:
            yield
        finally:
            for worker in others:
                worker.go_on()
