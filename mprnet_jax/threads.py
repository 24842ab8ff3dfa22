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


def map_ahead(
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


def parallel_map(work: Callable[[int], Result], count: int) -> Iterator[Result]:
    """work(0) to work(count - 1), in order; `THREADS` are up to two calls each ahead.

    Decoders, NumPy and OpenCV let go of the interpreter while they work, so threads suffice.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from map_ahead(pool, work, range(count), 2 * THREADS)
        finally:  # nobody waits for what nobody will ask for
            pool.shutdown(wait=False, cancel_futures=True)


def parallel_map_or_error(
    work: Callable[[int], Result], count: int
) -> Iterator[Result | UserError]:
    """`parallel_map`; where the work raises a UserError, that comes in place of the result."""

    def work_or_error(number: int) -> Result | UserError:
        try:
            return work(number)
        except UserError as error:
            return error

    yield from parallel_map(work_or_error, count)
