"""Work that threads do ahead of the one who asks for its results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mprnet_jax.errors import UserError

# One a core that this process may use, and not so many that what they hold fills the memory.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
THREADS = min(CORES, 16)

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_advance(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    count: int,
) -> Iterator[Result]:
    """The function's results in order, `count` of them computed before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ahead(work: Callable[[int], Result], count: int) -> Iterator[Result]:
    """work(0) to work(count - 1), in order; `THREADS` are up to two calls each ahead.

    Decoders, NumPy and OpenCV let go of the interpreter while they work, so threads suffice.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from in_advance(pool, work, range(count), 2 * THREADS)
        finally:  # nobody waits for what nobody will ask for
            pool.shutdown(wait=False, cancel_futures=True)


def ahead_with_errors(work: Callable[[int], Result], count: int) -> Iterator[Result | UserError]:
    """`ahead`; where the work raises a UserError, that comes in place of the result."""

    def work_or_error(number: int) -> Result | UserError:
        try:
            return work(number)
        except UserError as error:
            return error

    yield from ahead(work_or_error, count)
