"""Decides when the programs that restore images are compiled, keeps them, and runs them.

A program is the network, compiled for one shape of arrays; its `ProgramShape` is its key. With a
canvas, the images in the arrays may be smaller. Images are float32 [H, W, 3] whose sides are
multiples of 8.
"""

import concurrent.futures
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mprnet_jax.devices import records
from mprnet_jax.devices.memory import OutOfMemory
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.engine import Engine, Program
from mprnet_jax.restoration.planning import Plan, ProgramChooser
from mprnet_jax.restoration.sizes import Size

MAX_COMPILED = 64  # programs that are kept; beyond that the least recently used one is dropped


class CanvasTooLarge(OutOfMemory):
    """A program with a canvas does not fit into memory.

    The chooser has replaced it by smaller ones: choose again, and retry.
    """


class Programs:
    """The programs of one network, compiled at first use or earlier by a plan.

    Programs are kept. So is the failure of one that the compiler finds too large: using it again
    raises `OutOfMemory` without compiling it again.
    """

    def __init__(self, engine: Engine, batch_size: int):
        """Starts without programs.

        Args:
            engine: makes the programs.
            batch_size: how many images all devices together restore at once.
        """
        self.engine, self.costs = engine, engine.costs
        self.batch_size = batch_size
        self._futures: OrderedDict[ProgramShape, Future[Program]] = OrderedDict()
        self._ran: set[ProgramShape] = set()
        self._lock = threading.Lock()
        # One thread, as each compilation takes much memory. It gets a planned program when it has
        # nothing else to do, so that a program that is waited for is compiled before the rest of
        # the plan. It is no daemon: a daemon thread that is inside XLA when Python exits aborts the
        # process.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compiling")
        self._queue: deque[ProgramShape] = deque()  # planned, compiling not begun
        self.chooser = ProgramChooser(
            engine.costs, batch_size if engine.fixed_batch else 1, engine.max_program_pixels
        )

    def plan(self, counts: Mapping[Size, int], max_canvas_pixels: float) -> Plan:
        """Plans the programs for images of these sizes, and begins to compile them if several.

        Args:
            counts: number of images of each size.
            max_canvas_pixels: the most pixels that a canvas may have.
        """
        plan = self.chooser.plan(counts, max_canvas_pixels)
        with self._lock:
            # A single program is compiled at first use: no other one could run meanwhile, and
            # larger or smaller tiles may still replace it.
            self._queue = deque(plan.order[:MAX_COMPILED] if len(plan.order) > 1 else [])
        self._compile_next()
        return plan

    def choose(self, size: Size) -> ProgramShape:
        """Returns the program for images of a size: the planned one, or else a cheap one."""
        with self._lock:
            requested = list(self._futures)
        return self.chooser.choose(size, requested)

    def program_bytes(self, program: ProgramShape) -> float:
        """Compiles a program, unless it is, and returns the bytes that each device takes to run it.

        Raises:
            OutOfMemory: if the compiler finds that the program needs too much memory.
        """
        return self._wait_for(program).bytes

    def run(
        self, program: ProgramShape, images: Sequence[np.ndarray], num_stages: int = 1
    ) -> list[np.ndarray]:
        """Restores at most `batch_size` images that the program holds.

        Returns:
            For each image [H, W, 3] those of the last stages, [num_stages, H, W, 3].

        Raises:
            CanvasTooLarge: if a device has too little memory, but a smaller canvas may fit.
            OutOfMemory: if a device has too little memory.
        """
        padded_size = self.batch_size if self.engine.fixed_batch else len(images)
        batch = np.zeros((padded_size, program.height, program.width, 3), np.float32)
        sizes = np.zeros((padded_size, 2), np.int32)
        for i in range(padded_size):
            image = images[min(i, len(images) - 1)]  # the last image fills up the batch
            sizes[i] = image.shape[:2]
            batch[i, : image.shape[0], : image.shape[1]] = image
        try:
            compiled = self._wait_for(program)
            nothing_compiling, start = not self._is_compiling(), time.perf_counter()
            restored = compiled.run(batch, sizes, num_stages)
        except OutOfMemory as error:
            if all(image.shape[:2] == (program.height, program.width) for image in images):
                raise
            self.chooser.reject(program)
            raise CanvasTooLarge(str(error)) from error
        if nothing_compiling and program in self._ran:  # the first run takes longer
            self.costs.record_run(program, padded_size, time.perf_counter() - start)
        self._ran.add(program)
        for image in images:
            self.chooser.record_use(program, image.shape[:2])
        return [
            each[:, : image.shape[0], : image.shape[1]] for each, image in zip(restored, images)
        ]

    def _wait_for(self, program: ProgramShape) -> Program:
        """Returns the compiled program; raises OutOfMemory if the compiler finds it too large."""
        future = self._start(program)
        if not future.done():
            size = f"{program.width}x{program.height} pixels{' and less' if program.canvas else ''}"
            last_seconds = self.costs.last_compile_seconds(program) or 0
            with records.announced(f"a program for images of {size}", last_seconds):
                concurrent.futures.wait([future])
        error = future.exception()
        if isinstance(error, OutOfMemory):
            # A new error each time: the kept error's traceback would grow by the frames of each
            # use, and keep their photos in memory.
            raise OutOfMemory(str(error)) from error
        if error:
            with self._lock:
                self._futures.pop(program, None)
            raise error
        return future.result()

    def _start(self, program: ProgramShape) -> Future[Program]:
        """Returns the future of a program; begins to compile it at the first request."""
        with self._lock:
            if program not in self._futures:
                self._futures[program] = self._compiler.submit(self._compile, program)
                if len(self._futures) > MAX_COMPILED:
                    dropped, future = self._futures.popitem(last=False)
                    future.cancel()
                    self._ran.discard(dropped)
            self._futures.move_to_end(program)
            return self._futures[program]

    def _compile_next(self, finished: ProgramShape | None = None) -> None:
        """Begins to compile the next planned program, unless the thread has other work.

        Args:
            finished: the program that the thread has just compiled.
        """
        with self._lock:
            if any(not f.done() for program, f in self._futures.items() if program != finished):
                return  # it calls this at its end
            queue = [program for program in self._queue if program not in self._futures]
            self._queue = deque(queue[1:])
        if queue:
            self._start(queue[0])

    def _is_compiling(self) -> bool:
        with self._lock:
            return not all(future.done() for future in self._futures.values())

    def _compile(self, program: ProgramShape) -> Program:
        """Compiles a program, then begins with the next planned one; runs in the thread."""
        try:
            return self.engine.compile(program)
        finally:
            with contextlib.suppress(RuntimeError):  # at exit no new work is accepted
                self._compile_next(finished=program)
