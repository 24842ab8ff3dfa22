"""Runs ONNX models in ONNX Runtime and OpenVINO, on CPUs."""

import contextlib
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np

from mprnet_jax.compat.openvino import import_openvino
from mprnet_jax.errors import UserError
from mprnet_jax.threads import CORES

# `run(images)` takes float32 [N, H, W, 3] and returns one such array for each output. It raises
# MemoryError if there is too little memory, and keeps none between runs.
Run = Callable[[np.ndarray], list[np.ndarray]]

OUT_OF_MEMORY = re.compile("(Failed to allocate|can't alloc|std::bad_alloc).*")

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # by package


def load(runtime: str, model: bytes, *, dtype: str = "float32") -> Run:
    """Loads an ONNX model, whose input and outputs are float32 [N, 3, H, W], into a runtime.

    Args:
        runtime: a key of `NAMES`.
        model: the content of an .onnx file.
        dtype: of the computation, "float32" or, in OpenVINO, "bfloat16".

    Raises:
        UserError: if the runtime is not installed, or does not compute in this type.
    """
    if runtime == "openvino":
        return load_openvino(model, dtype)
    if dtype != "float32":
        raise UserError(
            f"{NAMES[runtime]} computes in float32, not in {dtype}; use openvino or jax"
        )
    return load_onnxruntime(model)


def installed() -> list[str]:
    """Returns the runtimes that can be imported, by package."""
    found = []
    for runtime in NAMES:
        try:
            import_runtime(runtime)
        except UserError:
            continue
        found.append(runtime)
    return found


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


def load_onnxruntime(model: bytes) -> Run:
    """Loads a model into ONNX Runtime; see `load`."""
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    # Without its arena a run takes twice as long; with it, it would keep the memory of a run.
    run_options = onnxruntime.RunOptions()
    run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    state = onnxruntime.capi.onnxruntime_pybind11_state

    def run(images: np.ndarray) -> list[np.ndarray]:
        with as_memory_error(state.Fail, state.RuntimeException):
            results = session.run(None, {name: channels_first(images)}, run_options)
        return [channels_last(result) for result in results]

    return run


def load_openvino(model: bytes, dtype: str) -> Run:
    """Loads a model into OpenVINO; see `load`."""
    openvino = import_runtime("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": CORES,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
    }
    core = openvino.Core()
    loaded = core.read_model(model)

    def compile_model() -> Any:
        return core.compile_model(loaded, "CPU", settings).create_infer_request()

    request = compile_model()

    def run(images: np.ndarray) -> list[np.ndarray]:
        nonlocal request
        request = request or compile_model()
        try:
            with as_memory_error(RuntimeError):
                results = request.infer([channels_first(images)])
            shapes = {tuple(results[i].shape[2:]) for i in range(len(results))}
            if shapes != {images.shape[1:3]}:  # seen where memory was short
                raise MemoryError("OpenVINO returned images of an earlier run")
        except MemoryError:
            request = None  # a part of its layers has the shapes of this run, the others old ones
            raise
        compiled = request.get_compiled_model()
        compiled.release_memory()  # results are copies
        return [channels_last(results[output]) for output in compiled.outputs]

    return run


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
