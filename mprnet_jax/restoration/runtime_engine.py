"""Restores images with a runtime for ONNX models, on CPUs.

A runtime takes images of any size without compiling anything, so each size has its own program, and
none has a canvas.
"""

import math
import threading

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mprnet_jax.devices import memory
from mprnet_jax.devices.memory import OutOfMemory
from mprnet_jax.errors import UserError
from mprnet_jax.export import runtimes
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.restoration.costs import Costs, ProgramShape
from mprnet_jax.restoration.engine import Program, remedy


class RuntimeEngine:
    """Makes programs that share one session of ONNX Runtime or OpenVINO."""

    fixed_batch = False
    max_program_pixels = math.inf
    cpu_devices = 1

    def __init__(
        self,
        runtime: str,
        model: MPRNet,
        mesh: Mesh,
        *,
        batch_size: int,
        stages: int,
        local_pooling: bool,
        precision: str | None,
    ):
        """Loads the network into the runtime.

        Args:
            runtime: a key of `runtimes.NAMES`.
            model: the network.
            mesh: one device; it is not used, as the runtime has all cores.
            batch_size: how many images are restored at once.
            stages: as in `Restorer`.
            local_pooling: must be False.
            precision: must be None.

        Raises:
            UserError: if the runtime is not installed, or an option is none of its own.
        """
        for option, given in {
            "local_pooling=True": local_pooling,
            f"precision={precision}": precision,
            f"mesh of {mesh.size} devices": mesh.size > 1,
        }.items():
            if given:
                raise UserError(f"{option}: is not for engine={runtime}; use engine=jax")
        self._batch_size = batch_size
        dtype = model.config.dtype
        self._runtime = runtimes.load(runtime, model_bytes(runtime, model, stages), dtype=dtype)
        self._last_shape: tuple[int, ...] = ()  # of images, whose run has kept memory
        self._lock = threading.Lock()  # one run has all cores
        where = f"cpu, {runtimes.describe(runtime)}"
        self.costs = Costs.load(model.config, runtime, where, f"{stages} stages", batch_size)

    def available_bytes(self, limit: int | None) -> float:
        """Returns the bytes that are free; see `memory.available_bytes`."""
        with self._lock:
            self._release()
            return memory.available_to_process(limit)

    def _release(self) -> None:
        if self._last_shape:
            self._runtime.release()
            self._last_shape = ()

    def compile(self, shape: ProgramShape) -> Program:
        """Returns a program; runtimes compile nothing, and do not tell what they will take."""

        def run(images: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
            try:
                with self._lock:
                    if images.shape != self._last_shape:
                        self._release()
                    self._last_shape = images.shape
                    return np.stack(self._runtime(images)[:count], axis=1)
            except MemoryError as error:
                raise OutOfMemory(
                    f"the memory is too small ({error}): {remedy(self._batch_size, shape)}"
                ) from error

        return Program(run, self.costs.bytes_per_pixel * shape.pixels)


def model_bytes(runtime: str, model: MPRNet, stages: int) -> bytes:
    """Returns an ONNX model whose outputs are the images of all stages, the last stage first."""
    runtimes.import_runtime(runtime)  # which may not be installed either
    try:
        from mprnet_jax.export import graph
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise UserError(f"ONNX is not installed: pip install 'mprnet-jax[{runtime}]'") from error
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    onnx_model = graph.build(model.config, params, stages=stages, pads=False)
    graph.output_stages(onnx_model, range(stages, 0, -1))
    return onnx_model.SerializeToString()
