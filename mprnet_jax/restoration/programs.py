"""The compiled programs that restore images with one network: made, chosen and run.

Images are float32 [H, W, 3] whose sides are multiples of 8.
"""

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress

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
from mprnet_jax.restoration import planning
from mprnet_jax.restoration.planning import Costs, Plan, Program, Size

MOST_COMPILED = 64  # programs; the one that was not used for longest goes
ROUNDED = 64  # pixels; sides of canvases for sizes to come are multiples of it where that is cheap
TO_COME = 4  # images that a canvas made without a plan is expected to serve
SMALLER = 0.7  # what is tried in place of a canvas that is too large, as a share of its pixels
# Elements of a map. With more XLA's kernels for GPUs need 64-bit indices, and cuDNN takes none.
MOST_ELEMENTS = 2**31 - 1


class CanvasTooLarge(OutOfMemory):
    """Images share a canvas that is too large for the device; now they have smaller ones."""


class Programs:
    """Compiles programs when they are needed, or one after another in advance of a plan."""

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
        """See `Restorer`; `batch_size` is that of all devices together."""
        graph, parameters = nnx.split(model)
        config = model.config
        precision = precision or jax.config.jax_default_matmul_precision
        self.batch_size = batch_size
        self._parameters = jax.device_put(parameters, replicated(mesh))
        self._sharding = image_sharding(mesh)
        self._size_sharding = NamedSharding(mesh, PartitionSpec("data"))
        constrain = sharding_constraint(mesh)
        pool = local_mean if local_pooling else global_mean

        def restore(
            parameters: nnx.State, images: jax.Array, sizes: jax.Array | None = None
        ) -> list[jax.Array]:
            with jax.default_matmul_precision(precision) if precision else nullcontext():
                return nnx.merge(graph, parameters)(images, stages, pool, constrain, sizes)

        self._restore = compiling.jit(restore, forward_only=True, out_shardings=self._sharding)
        self._compiled: OrderedDict[Program, Future] = OrderedDict()
        self._ran: set[Program] = set()
        self._dropped: set[Program] = set()
        self._planned: dict[Size, Program] = {}
        self._counts: Mapping[Size, int] = {}
        self._wasted: Counter[Size] = (
            Counter()
        )  # seconds that sizes without a plan lost on canvases
        self._lock = threading.Lock()
        # One thread, for compiling several at a time would take their memory together; and one
        # program at a time, for what is needed comes before what is only planned.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compiling")
        self._queue: deque[Program] = deque()

        device = mesh.devices.flat[0]
        data, height = mesh.shape["data"], mesh.shape["height"]
        self.costs = Costs.of(
            config,
            device,
            f"{stages} stages, {'local' if local_pooling else 'global'} means, "
            f"batch {batch_size}, mesh {data}x{height}, precision {precision}",
            batch_size / data / height,
        )
        self.most_pixels = math.inf  # of an image, whatever the memory
        if device.platform == "gpu":
            self.most_pixels = most_pixels(config, batch_size / data / height)

    def plan(self, counts: Mapping[Size, int], most_pixels: float) -> Plan:
        """Chooses the programs for so many images of each size, and begins to compile them.

        No canvas gets more than `most_pixels`.
        """
        most_pixels = min(most_pixels, self.most_pixels)
        plan = planning.plan(counts, self.costs, most_pixels, self.batch_size)
        self._planned, self._counts = dict(plan.programs), counts
        with self._lock:
            self._queue = deque(plan.order[:MOST_COMPILED] if len(plan.order) > 1 else [])
        self._compile_planned()
        return plan

    def choose(self, size: Size) -> Program:
        """The program for images of a size: the planned one, or the one that costs least.

        The first size that was not planned gets a program of its own, for it may be the only one.
        """
        if size in self._planned:
            return self._planned[size]
        own, costs, pixels = Program(*size, canvas=True), self.costs, size[0] * size[1]
        exact = own._replace(canvas=False)
        with self._lock:
            compiled = list(self._compiled)
        if exact in compiled or self._wasted[size] > costs.to_compile(exact):
            return exact
        there = {*compiled, *(p for p in costs.cached if p.pixels <= self.most_pixels)}
        best = planning.smallest(there - self._dropped, size)
        if best and costs.run * (best.pixels - pixels) < costs.to_compile(own):
            return best
        if not compiled:
            return exact
        roomy = Program(*(-(-side // ROUNDED) * ROUNDED for side in size), canvas=True)
        wasted = TO_COME * costs.run * (roomy.pixels - pixels)
        refused = roomy in self._dropped or roomy.pixels > self.most_pixels
        return own if refused or wasted > costs.compile[True] else roomy

    def drop(self, size: Size) -> bool:
        """Gives up the canvas that images of this size share, which turned out too large.

        Returns:
            Whether there was one; its sizes get smaller ones.
        """
        program = self.choose(size)
        if program[:2] == size:
            return False
        self._give_up(program)
        return True

    def _give_up(self, canvas: Program) -> None:
        self._dropped.add(canvas)
        sizes = [size for size, planned in self._planned.items() if planned == canvas]
        counts = {size: self._counts[size] for size in sizes}
        plan = planning.plan(counts, self.costs, SMALLER * canvas.pixels, self.batch_size)
        self._planned |= plan.programs

    def needed(self, program: Program) -> float:
        """Bytes that each device takes to run the program; infinite if it cannot be compiled."""
        compiled = self._get(program)
        return math.inf if isinstance(compiled, str) else memory.program_bytes(compiled)

    def run(
        self, program: Program, images: Sequence[np.ndarray], count: int = 1
    ) -> list[np.ndarray]:
        """Restores at most `batch_size` images that the program holds.

        Returns:
            For each image [H, W, 3] those of the last `count` stages, [count, H, W, 3].

        Raises:
            OutOfMemory: if a device has too little memory.
        """
        shape = (self.batch_size, program.height, program.width, 3)
        batch = np.zeros(shape, np.float32)
        sizes = np.zeros((self.batch_size, 2), np.int32)
        for place in range(self.batch_size):  # the last image also fills the places left over
            image = images[min(place, len(images) - 1)]
            sizes[place] = image.shape[:2]
            batch[place, : image.shape[0], : image.shape[1]] = image
        try:
            with memory.report_out_of_memory(
                f"restore {len(batch)} x {program.width}x{program.height} pixels in smaller tiles "
                "or batches"
            ):
                compiled = self._get(program)
                if isinstance(compiled, str):
                    raise jax.errors.JaxRuntimeError(compiled)
                alone, start = not self._is_compiling(), time.perf_counter()
                arguments = [jax.device_put(batch, self._sharding)]
                if program.canvas:
                    arguments.append(jax.device_put(sizes, self._size_sharding))
                stages = compiled(self._parameters, *arguments)[:count]
                stages = np.stack(jax.device_get(stages), axis=1)
        except OutOfMemory as error:
            if all(image.shape[:2] == program[:2] for image in images):
                raise
            self._give_up(program)
            raise CanvasTooLarge(str(error)) from error
        if alone and program in self._ran:  # the first run is no measure
            self.costs.ran(program, self.batch_size, time.perf_counter() - start)
        self._ran.add(program)
        for image in images:
            size = image.shape[:2]
            self._wasted[size] += self.costs.run * (program.pixels - size[0] * size[1])
        return [
            stage[:, : image.shape[0], : image.shape[1]] for stage, image in zip(stages, images)
        ]

    def _get(self, program: Program) -> jax.stages.Compiled | str:
        """The compiled program, or why it is too large for the device."""
        future = self._start(program)
        if future.done() and not future.exception():
            return future.result()
        size = f"{program.width}x{program.height} pixels{' and less' * program.canvas}"
        try:
            with records.announced(
                f"a program for images of {size}", self.costs.last_compile(program)
            ):
                return future.result()
        except BaseException:
            with self._lock:
                self._compiled.pop(program, None)
            raise

    def _is_compiling(self) -> bool:
        with self._lock:
            return not all(future.done() for future in self._compiled.values())

    def _compile_planned(self) -> None:
        """Begins to compile the next planned program."""
        with self._lock:
            queue = [program for program in self._queue if program not in self._compiled]
            self._queue = deque(queue[1:])
        if queue:
            self._start(queue[0])

    def _start(self, program: Program) -> Future:
        """What becomes the compiled program."""
        with self._lock:
            if program not in self._compiled:
                self._compiled[program] = self._compiler.submit(self._compile, program)
                if len(self._compiled) > MOST_COMPILED:
                    self._compiled.popitem(last=False)[1].cancel()
            self._compiled.move_to_end(program)
            return self._compiled[program]

    def _compile(self, program: Program) -> jax.stages.Compiled | str:
        """The program, or why it is too large; an error that is kept would keep a photo too."""
        shape = (self.batch_size, program.height, program.width, 3)
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self._sharding)]
        if program.canvas:
            sizes = jax.ShapeDtypeStruct(
                (self.batch_size, 2), jnp.int32, sharding=self._size_sharding
            )
            arguments.append(sizes)
        start = time.perf_counter()
        try:
            compiled = self._restore.lower(self._parameters, *arguments).compile()
            self.costs.compiled(
                program, time.perf_counter() - start, memory.program_bytes(compiled)
            )
            return compiled
        except jax.errors.JaxRuntimeError as error:
            if memory.OUT_OF_MEMORY.search(str(error)):
                return str(error)
            raise
        finally:
            with suppress(RuntimeError):  # where Python is about to end
                self._compile_planned()


def most_pixels(config: ModelConfig, images: float) -> int:
    """Pixels of an image with which no map reaches `MOST_ELEMENTS`, for so many images a device."""
    channels = max(2 * config.width, config.width + config.orsnet_growth)
    return int(MOST_ELEMENTS / (images * channels))
