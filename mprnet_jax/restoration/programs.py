"""Compiles the programs that restore images with one network, and runs them.

Images are float32 [H, W, 3] whose sides are multiples of 8.
"""

import concurrent.futures
import contextlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import compiling, memory, records
from mprnet_jax.devices.memory import OutOfMemory
from mprnet_jax.devices.mesh import image_sharding, replicated, sharding_constraint
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.model.pooling import global_mean, local_mean
from mprnet_jax.restoration.costs import Costs, Program, Size
from mprnet_jax.restoration.planning import Plan, ProgramChooser

MOST_COMPILED = 64  # programs that are kept; then the least recently used one is dropped
# Elements of an array. For more, XLA's kernels for GPUs need 64-bit indices, which cuDNN lacks.
MOST_ELEMENTS = 2**31 - 1


class CanvasTooLarge(OutOfMemory):
    """Images did not fit because of their program's canvas; the chooser has smaller ones now."""


class Programs:
    """The programs of one network, compiled at first use or ahead of it by a plan."""

    def __init__(
        self,
        model: MPRNet,
        mesh: Mesh,
        *,
        batch_size: int,
        stages: int,
        local_pooling: bool,
        precision: str | None,
    ):
        """Copies the network to the devices; nothing is compiled yet.

        Args:
            model: the network.
            mesh: the devices.
            batch_size: how many images all devices together restore at once.
            stages: see `Restorer`, as for the arguments that follow.
            local_pooling: see there.
            precision: see there.
        """
        graph, params = nnx.split(model)
        precision = precision or jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        self.batch_size = batch_size
        self._params = jax.device_put(params, replicated(mesh))
        self._sharding = image_sharding(mesh)
        self._size_sharding = NamedSharding(mesh, PartitionSpec("data"))
        constrain = sharding_constraint(mesh)
        pool = local_mean if local_pooling else global_mean

        def restore(
            params: nnx.State, images: jax.Array, sizes: jax.Array | None = None
        ) -> list[jax.Array]:
            with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
                return nnx.merge(graph, params)(images, stages, pool, constrain, sizes)

        self._restore = compiling.jit(restore, forward_only=True, out_shardings=self._sharding)
        self._compiled: OrderedDict[Program, Future[jax.stages.Compiled]] = OrderedDict()
        self._ran: set[Program] = set()
        self._lock = threading.Lock()
        # One thread, as several compilations at once would add up their memory. It is given one
        # program at a time, so that a program that is waited for comes before planned ones. Python
        # waits for the thread at exit: a daemon thread inside XLA then would abort the process.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compiling")
        self._queue: deque[Program] = deque()  # planned and not begun

        device = mesh.devices.flat[0]
        data, height = mesh.shape["data"], mesh.shape["height"]
        images_per_device = batch_size / data / height
        self.costs = Costs.load(
            model.config,
            device,
            f"{stages} stages, {'local' if local_pooling else 'global'} means, "
            f"batch {batch_size}, mesh {data}x{height}, precision {precision}",
            images_per_device,
        )
        on_gpu = device.platform == "gpu"
        most = most_pixels(model.config, images_per_device) if on_gpu else math.inf
        self.chooser = ProgramChooser(self.costs, batch_size, most)

    def plan(self, counts: Mapping[Size, int], most_pixels: float) -> Plan:
        """Plans the programs for so many images of each size, and begins to compile them.

        Args:
            counts: number of images of each size.
            most_pixels: the most pixels that a canvas may have.
        """
        plan = self.chooser.plan(counts, most_pixels)
        with self._lock:
            self._queue = deque(plan.order[:MOST_COMPILED] if len(plan.order) > 1 else [])
        self._compile_next()
        return plan

    def choose(self, size: Size) -> Program:
        """Returns the program for images of a size: the planned one, or the cheapest."""
        with self._lock:
            compiled = list(self._compiled)
        return self.chooser.choose(size, compiled)

    def program_bytes(self, program: Program) -> float:
        """Returns the bytes that each device takes to run the program.

        Raises:
            OutOfMemory: if the program cannot be compiled for want of memory.
        """
        return memory.program_bytes(self._wait_for(program))

    def run(
        self, program: Program, images: Sequence[np.ndarray], count: int = 1
    ) -> list[np.ndarray]:
        """Restores at most `batch_size` images that the program holds.

        Returns:
            For each image [H, W, 3] those of the last `count` stages, [count, H, W, 3].

        Raises:
            CanvasTooLarge: if a device has too little memory, but smaller canvases may do.
            OutOfMemory: if a device has too little memory.
        """
        shape = (self.batch_size, program.height, program.width, 3)
        batch = np.zeros(shape, np.float32)
        sizes = np.zeros((self.batch_size, 2), np.int32)
        for i in range(self.batch_size):
            image = images[min(i, len(images) - 1)]  # the last image fills up the batch
            sizes[i] = image.shape[:2]
            batch[i, : image.shape[0], : image.shape[1]] = image
        try:
            compiled = self._wait_for(program)
            with memory.report_out_of_memory(self._remedy(program)):
                alone, start = not self._is_compiling(), time.perf_counter()
                arguments = [jax.device_put(batch, self._sharding)]
                if program.canvas:
                    arguments.append(jax.device_put(sizes, self._size_sharding))
                stages = compiled(self._params, *arguments)[:count]
                stages = np.stack(jax.device_get(stages), axis=1)
        except OutOfMemory as error:
            if all(image.shape[:2] == (program.height, program.width) for image in images):
                raise
            self.chooser.reject(program)
            raise CanvasTooLarge(str(error)) from error
        if alone and program in self._ran:  # the first run takes longer
            self.costs.record_run(program, self.batch_size, time.perf_counter() - start)
        self._ran.add(program)
        for image in images:
            self.chooser.record_use(program, image.shape[:2])
        return [
            stage[:, : image.shape[0], : image.shape[1]] for stage, image in zip(stages, images)
        ]

    def _remedy(self, program: Program) -> str:
        return (
            f"restore {self.batch_size} x {program.width}x{program.height} pixels in smaller tiles "
            "or batches"
        )

    def _wait_for(self, program: Program) -> jax.stages.Compiled:
        """Returns the compiled program; raises OutOfMemory if the compiler finds it too large."""
        future = self._start(program)
        if not future.done():
            size = f"{program.width}x{program.height} pixels{' and less' * program.canvas}"
            with records.announced(
                f"a program for images of {size}", self.costs.last_compile_seconds(program)
            ):
                concurrent.futures.wait([future])
        error = future.exception()
        if isinstance(error, OutOfMemory):
            # A new error each time: the kept one would keep the frames that it was raised through,
            # and so a photo for each time.
            raise OutOfMemory(str(error)) from error
        if error:
            with self._lock:
                self._compiled.pop(program, None)
            raise error
        return future.result()

    def _start(self, program: Program) -> Future[jax.stages.Compiled]:
        """Begins to compile a program, if need be, and returns its future."""
        with self._lock:
            if program not in self._compiled:
                self._compiled[program] = self._compiler.submit(self._compile, program)
                if len(self._compiled) > MOST_COMPILED:
                    self._compiled.popitem(last=False)[1].cancel()
            self._compiled.move_to_end(program)
            return self._compiled[program]

    def _compile_next(self) -> None:
        """Begins to compile the next planned program."""
        with self._lock:
            queue = [program for program in self._queue if program not in self._compiled]
            self._queue = deque(queue[1:])
        if queue:
            self._start(queue[0])

    def _is_compiling(self) -> bool:
        with self._lock:
            return not all(future.done() for future in self._compiled.values())

    def _compile(self, program: Program) -> jax.stages.Compiled:
        """Compiles a program, then begins with the next planned one; runs in the thread."""
        shape = (self.batch_size, program.height, program.width, 3)
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self._sharding)]
        if program.canvas:
            arguments.append(
                jax.ShapeDtypeStruct((self.batch_size, 2), jnp.int32, sharding=self._size_sharding)
            )
        start = time.perf_counter()
        try:
            with memory.report_out_of_memory(self._remedy(program)):
                compiled = self._restore.lower(self._params, *arguments).compile()
            seconds = time.perf_counter() - start
            self.costs.record_compile(program, seconds, memory.program_bytes(compiled))
            return compiled
        finally:
            with contextlib.suppress(RuntimeError):  # no new work is taken when Python ends
                self._compile_next()


def most_pixels(config: ModelConfig, images: float) -> int:
    """Returns the pixels of an image with which no array reaches `MOST_ELEMENTS`.

    Args:
        config: the network's configuration.
        images: how many images each device restores at once; less than 1 where devices share one.
    """
    channels = max(2 * config.width, config.width + config.orsnet_growth)
    return int(MOST_ELEMENTS / (images * channels))
