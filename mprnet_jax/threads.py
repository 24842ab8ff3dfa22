"""Thread pools that compute results before they are asked for."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mprnet_jax.errors import UserError

# One for each core that this process may use, up to a limit that bounds the memory they hold.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(CORES, 16)

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    count: int,
) -> Iterator[Result]:
    """Yields `function(item)` in order, with up to `count` further calls running in the pool."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields `function(item)` in order, computed by `THREADS` threads.

    Decoders, NumPy and OpenCV release the interpreter lock while they work, so threads suffice.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from prefetch(pool, function, items, 2 * THREADS)
        finally:  # the caller may stop early
            pool.shutdown(wait=False, cancel_futures=True)


def parallel_map_or_error(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result | UserError]:
    """Like `parallel_map`, but yields a UserError that the function raises as its result."""

    def result_or_error(item: Item) -> Result | UserError:
        try:
            return function(item)
        except UserError as error:
            return error

    yield from parallel_map(result_or_error, items)
