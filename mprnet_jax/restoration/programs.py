"""The compiled programs that restore images with one network: made, chosen and run.

Images are float32 [H, W, 3] whose sides are multiples of 8.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mprnet_jax.devices import compiling, memory, records
from mprnet_jax.devices.mesh import image_sharding, placement, replicated
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.model.pooling import global_mean, local_mean
from mprnet_jax.restoration import planning
from mprnet_jax.restoration.planning import Costs, Plan, Program, Size

MOST_KEPT = 64  # compiled programs; the one that was not used for longest goes
ROUNDED = (
    64  # pixels; sides of canvases for sizes to come are multiples of it, if that costs little
)
MORE_TO_COME = 4  # images that a canvas made without a plan is expected to serve
# Elements of a map. With more XLA's kernels for GPUs need 64-bit indices, and cuDNN takes none.
MOST_ELEMENTS = 2**31 - 1


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
        self.batch_size = batch_size
        self._parameters = jax.device_put(parameters, replicated(mesh))
        self._sharding = image_sharding(mesh)
        self._size_sharding = NamedSharding(mesh, PartitionSpec("data"))
        place = placement(mesh)
        pool = local_mean if local_pooling else global_mean

        def restore(
            parameters: nnx.State, images: jax.Array, sizes: jax.Array | None = None
        ) -> list[jax.Array]:
            with jax.default_matmul_precision(precision):
                return nnx.merge(graph, parameters)(images, stages, pool, place, sizes)

        self._restore = compiling.jit(restore, forward_only=True, out_shardings=self._sharding)
        self._compiled: OrderedDict[Program, Future] = OrderedDict()
        self._ran: set[Program] = set()
        self._planned: dict[Size, Program] = {}
        self._dropped: set[Program] = set()
        self._lock = threading.Lock()
        # One thread: compiling several at a time would take their memory together.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compiling")

        device = mesh.devices.flat[0]
        data, height = mesh.shape["data"], mesh.shape["height"]
        pooling = "local" if local_pooling else "global"
        self.costs = Costs.of(
            config,
            device,
            f"stages {stages}, {pooling} means, mesh {data}x{height}, precision {precision}",
            batch_size // data,
        )
        self.most_pixels = math.inf  # of an image, whatever the memory
        if device.platform == "gpu":
            channels = max(2 * config.width, config.width + config.orsnet_growth)
            self.most_pixels = MOST_ELEMENTS * data * height // (batch_size * channels)

    def plan(self, counts: Mapping[Size, int], most_pixels: float) -> Plan:
        """Chooses the programs for so many images of each size, and begins to compile them.

        No canvas gets more than `most_pixels`.
        """
        most_pixels = min(most_pixels, self.most_pixels)
        plan = planning.plan(counts, self.costs, most_pixels, self.batch_size)
        self._planned = plan.programs
        if len(plan.order) > 1:
            for program in plan.order[:MOST_KEPT]:
                self._start(program)
        return plan

    def choose(self, size: Size) -> Program:
        """The program for images of a size: the planned one, or the one that costs least.

        The first size that was not planned gets a program of its own, for it may be the only one.
        """
        if size in self._planned:
            return self._planned[size]
        best = planning.smallest(self._compiled.keys() - self._dropped, size)
        if best is None and not self._compiled:
            return Program(*size, canvas=False)
        pixels, costs = size[0] * size[1], self.costs
        own = Program(*size, canvas=True)
        if best and costs.run * (best.pixels - pixels) < costs.to_compile(own):
            return best
        roomy = Program(*(-(-side // ROUNDED) * ROUNDED for side in size), canvas=True)
        wasted = MORE_TO_COME * costs.run * (roomy.pixels - pixels)
        refused = roomy in self._dropped or roomy.pixels > self.most_pixels
        return own if refused or wasted > costs.compile[True] else roomy

    def drop(self, size: Size) -> bool:
        """Gives up the canvas that images of this size share, which turned out too large.

        Returns:
            Whether there was one; all its sizes get programs of their own.
        """
        program = self.choose(size)
        if program[:2] == size:
            return False
        self._dropped.add(program)
        sizes = [each for each, planned in self._planned.items() if planned == program]
        self._planned |= {each: Program(*each, canvas=False) for each in sizes}
        return True

    def needed(self, program: Program) -> float:
        """Bytes that each device takes to run the program; infinite if it cannot be compiled."""
        compiled = self._get(program)
        return math.inf if isinstance(compiled, str) else memory.needed(compiled)

    def run(
        self, program: Program, images: Sequence[np.ndarray], count: int = 1
    ) -> list[np.ndarray]:
        """Restores at most `batch_size` images that the program holds.

        Returns:
            For each image [H, W, 3] those of the last `count` stages, [count, H, W, 3].

        Raises:
            Shortage: if a device has too little memory.
        """
        shape = (self.batch_size, program.height, program.width, 3)
        batch = np.zeros(shape, np.float32)
        sizes = np.zeros((self.batch_size, 2), np.int32)
        for place in range(self.batch_size):  # the last image also fills the places left over
            image = images[min(place, len(images) - 1)]
            sizes[place] = image.shape[:2]
            batch[place, : image.shape[0], : image.shape[1]] = image
        with memory.shortage_told(
            f"restore {len(batch)} x {program.width}x{program.height} pixels in smaller tiles or "
            "batches"
        ):
            compiled = self._get(program)
            if isinstance(compiled, str):
                raise jax.errors.JaxRuntimeError(compiled)
            start = time.perf_counter()
            arguments = [jax.device_put(batch, self._sharding)]
            if program.canvas:
                arguments.append(jax.device_put(sizes, self._size_sharding))
            stages = compiled(self._parameters, *arguments)[:count]
            stages = np.stack(jax.device_get(stages), axis=1)
        if program in self._ran:  # the first run is no measure
            self.costs.ran(program, self.batch_size, time.perf_counter() - start)
        self._ran.add(program)
        return [
            stage[:, : image.shape[0], : image.shape[1]] for stage, image in zip(stages, images)
        ]

    def _get(self, program: Program) -> jax.stages.Compiled | str:
        """The compiled program, or why it is too large for the device."""
        future = self._start(program)
        expected = self.costs.compile[program.canvas] if self.costs.measured else None
        size = f"{program.width}x{program.height} pixels{' and less' * program.canvas}"
        try:
            with records.announced(f"a program for images of {size}", expected):
                return future.result()
        except BaseException:
            with self._lock:
                self._compiled.pop(program, None)
            raise

    def _start(self, program: Program) -> Future:
        """What becomes the compiled program."""
        with self._lock:
            if program not in self._compiled:
                self._compiled[program] = self._compiler.submit(self._compile, program)
                if len(self._compiled) > MOST_KEPT:
                    self._compiled.popitem(last=False)
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
        except jax.errors.JaxRuntimeError as error:
            if memory.OUT_OF_MEMORY.search(str(error)):
                return str(error)
            raise
        self.costs.compiled(program, time.perf_counter() - start, memory.needed(compiled))
        return compiled
