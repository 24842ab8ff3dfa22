"""Runs ONNX models in ONNX Runtime and OpenVINO, on CPUs."""

import contextlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from mprnet_jax.compat.openvino import core, import_openvino
from mprnet_jax.errors import UserError
from mprnet_jax.threads import CORES


class Runtime(Protocol):
    """A model that is loaded into a runtime; only one thread at a time may use it."""

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns the model's outputs; they and `images` are float32 [N, H, W, 3].

        It may keep memory, with which the next run is faster if its images have the same shape.

        Raises:
            MemoryError: if there is too little memory.
        """

    def release(self) -> None:
        """Frees the memory that runs have kept."""


OUT_OF_MEMORY = re.compile("(Failed to allocate|can't alloc|std::bad_alloc).*")

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # by package


def load(runtime: str, model: bytes, *, dtype: str = "float32") -> Runtime:
    """Loads an ONNX model, whose input and outputs are float32 [N, 3, H, W], into a runtime.

    Args:
        runtime: a key of `NAMES`.
        model: the content of an .onnx file.
        dtype: of the computation, "float32" or, in OpenVINO, "bfloat16".

    Raises:
        UserError: if the runtime is not installed, or does not compute in this type.
    """
    if runtime == "openvino":
        return OpenVINO(model, dtype)
    if dtype != "float32":
        raise UserError(
            f"{NAMES[runtime]} computes in float32, not in {dtype}; use openvino or jax"
        )
    return ONNXRuntime(model)


def installed(among: Iterable[str] = NAMES) -> list[str]:
    """Returns those of the runtimes that can be imported, by package."""
    found = []
    for runtime in among:
        try:
            import_runtime(runtime)
        except UserError:
            continue
        found.append(runtime)
    return found


def can_run_networks(runtime: str) -> bool:
    """Returns whether a runtime is installed, and ONNX, which its models are made with."""
    return runtime in installed([runtime]) and importlib.util.find_spec("onnx") is not None


def describe(runtime: str) -> str:
    """Returns the name and the version of an installed runtime."""
    return f"{NAMES[runtime]} {version(runtime)}"


def import_runtime(runtime: str) -> ModuleType:
    """Returns the package of a runtime, or raises UserError."""
    try:
        if runtime == "openvino":
            return import_openvino()
        import onnxruntime

        return onnxruntime
    except ImportError as error:
        raise UserError(
            f"{NAMES[runtime]} is not installed: pip install 'mprnet-jax[{runtime}]'"
        ) from error


class ONNXRuntime:
    """A model in ONNX Runtime; see `Runtime`."""

    def __init__(self, model: bytes):
        onnxruntime = import_runtime("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = CORES
        options.log_severity_level = 4  # errors are raised
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self._name = self._session.get_inputs()[0].name
        self._shrink_arena = onnxruntime.RunOptions()
        self._shrink_arena.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        state = onnxruntime.capi.onnxruntime_pybind11_state
        self._errors = state.Fail, state.RuntimeException

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        # Without its arena a run takes twice as long. If it is kept, it grows from run to run.
        with as_memory_error(*self._errors):
            results = self._session.run(
                None, {self._name: channels_first(images)}, self._shrink_arena
            )
        return [channels_last(result) for result in results]

    def release(self) -> None:
        """Does nothing, as runs keep no memory."""


class OpenVINO:
    """A model in OpenVINO; see `Runtime`."""

    def __init__(self, model: bytes, dtype: str):
        import_runtime("openvino")  # or raises UserError
        self._model = core().read_model(model)
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": CORES,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        }
        self._request = self._compile()

    def _compile(self) -> Any:
        compiled = core().compile_model(self._model, "CPU", self._settings)
        return compiled.create_infer_request()

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        self._request = self._request or self._compile()
        try:
            with as_memory_error(RuntimeError):
                results = self._request.infer([channels_first(images)])
            shapes = {tuple(results[i].shape[2:]) for i in range(len(results))}
            if shapes != {images.shape[1:3]}:  # seen where memory was short
                raise MemoryError("OpenVINO returned images of an earlier run")
        except MemoryError:
            # A part of its layers has the shapes of this run, the others old ones.
            self._request = None
            raise
        outputs = self._request.get_compiled_model().outputs
        return [channels_last(results[output]) for output in outputs]  # copies

    def release(self) -> None:
        """Frees what runs have kept; see `Runtime`."""
        if self._request:
            self._request.get_compiled_model().release_memory()


@contextlib.contextmanager
def as_memory_error(*errors: type[Exception]) -> Iterator[None]:
    """Turns a runtime's errors into MemoryError if they say so."""
    try:
        yield
    except errors as error:
        if not (said := OUT_OF_MEMORY.search(str(error))):
            raise
        raise MemoryError(said[0]) from error


def channels_first(images: np.ndarray) -> np.ndarray:
    """Returns images [N, H, W, C] as [N, C, H, W]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def channels_last(images: np.ndarray) -> np.ndarray:
    """Returns images [N, C, H, W] as [N, H, W, C]."""
    return images.transpose(0, 2, 3, 1)
