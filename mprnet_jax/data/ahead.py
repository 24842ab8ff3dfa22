"""Work that threads do ahead of the one who asks for its results."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(work: Callable[[int], T], count: int) -> Iterator[T]:
    """work(0) to work(count - 1), in order; threads, one a core, are up to two calls each ahead.

    Decoders, NumPy and OpenCV let go of the interpreter while they work, so threads suffice.
    """
    cores = os.cpu_count()
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for index in range(count):
            waiting.append(pool.submit(work, index))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
