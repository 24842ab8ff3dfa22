"""Restores images with programs that JAX compiles, on one device or on several."""

import contextlib
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import compiling, memory
from mprnet_jax.devices.mesh import image_sharding, replicated, sharding_constraint
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.model.pooling import global_mean, local_mean
from mprnet_jax.model.stages import stages_of
from mprnet_jax.restoration.costs import Costs, ProgramShape
from mprnet_jax.restoration.engine import Program, remedy

# Elements of an array. Larger ones need 64-bit indices on GPUs, which cuDNN does not have.
MAX_ELEMENTS = 2**31 - 1


class JaxEngine:
    """Makes programs with `jax.jit`."""

    fixed_batch = True

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
        self._batch_size = batch_size
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
        self._devices = list(mesh.devices.flat)
        device = self._devices[0]
        data, height = mesh.shape["data"], mesh.shape["height"]
        images_per_device = batch_size / data / height
        self.costs = Costs.load(
            model.config,
            device.platform,
            f"{device.device_kind}, jax {jax.__version__}",
            f"{stages} stages, {'local' if local_pooling else 'global'} means, "
            f"batch {batch_size}, mesh {data}x{height}, precision {precision}",
            images_per_device,
        )
        on_gpu = device.platform == "gpu"
        self.max_program_pixels = (
            max_program_pixels(model.config, images_per_device) if on_gpu else math.inf
        )
        self.cpu_devices = len(self._devices) if device.platform == "cpu" else 0

    def available_bytes(self, limit: int | None) -> float:
        """Returns the bytes that are free on each device; see `memory.available_bytes`."""
        return memory.available_bytes(self._devices, limit)

    def compile(self, shape: ProgramShape) -> Program:
        """Compiles a program; raises OutOfMemory if the compiler finds it too large."""
        images = (self._batch_size, shape.height, shape.width, 3)
        arguments = [jax.ShapeDtypeStruct(images, jnp.float32, sharding=self._sharding)]
        if shape.canvas:
            sizes = (self._batch_size, 2)
            arguments.append(jax.ShapeDtypeStruct(sizes, jnp.int32, sharding=self._size_sharding))
        start = time.perf_counter()
        with memory.report_out_of_memory(remedy(self._batch_size, shape)):
            compiled = self._restore.lower(self._params, *arguments).compile()
        required = memory.program_bytes(compiled)
        self.costs.record_compile(shape, time.perf_counter() - start, required)

        def run(images: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
            with memory.report_out_of_memory(remedy(self._batch_size, shape)):
                placed = [jax.device_put(images, self._sharding)]
                if shape.canvas:
                    placed.append(jax.device_put(sizes, self._size_sharding))
                stages = compiled(self._params, *placed)[:count]
                return np.stack(jax.device_get(stages), axis=1)

        return Program(run, required)


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
