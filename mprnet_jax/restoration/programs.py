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
from mprnet_jax.model.stages import stages_of
from mprnet_jax.restoration.costs import Costs, ProgramShape
from mprnet_jax.restoration.planning import Plan, ProgramChooser
from mprnet_jax.restoration.sizes import Size

MAX_COMPILED = 64  # programs that are kept; beyond that the least recently used one is dropped
# Elements of an array. Larger ones need 64-bit indices on GPUs, which cuDNN does not have.
MAX_ELEMENTS = 2**31 - 1


class CanvasTooLarge(OutOfMemory):
    """A program with a canvas does not fit into memory; the chooser has replaced it by now."""


class Programs:
    """The programs of one network, compiled at first use or earlier by a plan.

    Programs are kept, and so is an `OutOfMemory` of the compiler: it is raised again at each use.
    """

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
            stages: as in `Restorer`.
            local_pooling: as in `Restorer`.
            precision: as in `Restorer`.
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
        self._futures: OrderedDict[ProgramShape, Future[jax.stages.Compiled]] = OrderedDict()
        self._ran: set[ProgramShape] = set()
        self._lock = threading.Lock()
        # One thread, as each compilation takes much memory. It gets one planned program at a time,
        # so that a program that is waited for is compiled before the rest of the plan. It is no
        # daemon: a daemon thread that is inside XLA when Python exits aborts the process.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compiling")
        self._queue: deque[ProgramShape] = deque()  # planned, compiling not begun

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
        max_pixels = max_program_pixels(model.config, images_per_device) if on_gpu else math.inf
        self.chooser = ProgramChooser(self.costs, batch_size, max_pixels)

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
        """Returns the program for images of a size: the planned one, or else the cheapest."""
        with self._lock:
            compiled = list(self._futures)
        return self.chooser.choose(size, compiled)

    def program_bytes(self, program: ProgramShape) -> float:
        """Returns the bytes that each device takes to run the program.

        Raises:
            OutOfMemory: if the compiler finds that the program needs too much memory.
        """
        return memory.program_bytes(self._wait_for(program))

    def run(
        self, program: ProgramShape, images: Sequence[np.ndarray], count: int = 1
    ) -> list[np.ndarray]:
        """Restores at most `batch_size` images that the program holds.

        Returns:
            For each image [H, W, 3] those of the last `count` stages, [count, H, W, 3].

        Raises:
            CanvasTooLarge: if a device has too little memory, but a smaller canvas may fit.
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
                nothing_compiling, start = not self._is_compiling(), time.perf_counter()
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
        if nothing_compiling and program in self._ran:  # the first run takes longer
            self.costs.record_run(program, self.batch_size, time.perf_counter() - start)
        self._ran.add(program)
        for image in images:
            self.chooser.record_use(program, image.shape[:2])
        return [
            stage[:, : image.shape[0], : image.shape[1]] for stage, image in zip(stages, images)
        ]

    def _remedy(self, program: ProgramShape) -> str:
        return (
            f"restore {self.batch_size} x {program.width}x{program.height} pixels in smaller tiles "
            "or batches"
        )

    def _wait_for(self, program: ProgramShape) -> jax.stages.Compiled:
        """Returns the compiled program; raises OutOfMemory if the compiler finds it too large."""
        future = self._start(program)
        if not future.done():
            size = f"{program.width}x{program.height} pixels{' and less' * program.canvas}"
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

    def _start(self, program: ProgramShape) -> Future[jax.stages.Compiled]:
        """Begins to compile a program unless that was begun before, and returns its future."""
        with self._lock:
            if program not in self._futures:
                self._futures[program] = self._compiler.submit(self._compile, program)
                if len(self._futures) > MAX_COMPILED:
                    self._futures.popitem(last=False)[1].cancel()
            self._futures.move_to_end(program)
            return self._futures[program]

    def _compile_next(self) -> None:
        """Begins to compile the next planned program."""
        with self._lock:
            queue = [program for program in self._queue if program not in self._futures]
            self._queue = deque(queue[1:])
        if queue:
            self._start(queue[0])

    def _is_compiling(self) -> bool:
        with self._lock:
            return not all(future.done() for future in self._futures.values())

    def _compile(self, program: ProgramShape) -> jax.stages.Compiled:
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
            with contextlib.suppress(RuntimeError):  # at exit no new work is accepted
                self._compile_next()


def max_program_pixels(config: ModelConfig, images: float) -> int:
    """Returns the largest number of pixels per image for which no array exceeds `MAX_ELEMENTS`.

    Args:
        config: the network's configuration.
        images: how many images each device restores at once; less than 1 where devices share one.
    """
    # The widest arrays are the features of a stage, or its own and those of the stage before.
    channels = max(
        max(stage.channels, config.width + stage.previous_channels) for stage in stages_of(config)
    )
    return int(MAX_ELEMENTS / (images * channels))
