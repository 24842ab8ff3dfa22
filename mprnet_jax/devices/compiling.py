"""`jax.jit` with compiler options for the device at hand, and the compile cache on disk."""

import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from mprnet_jax import paths

# On CPUs XLA's default code for dots and for the reductions in weight gradients is slow; that of
# its YNN library is faster. benchmarks/ times both.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}

# Without gradients YNN's dots are no faster, and they keep copies of feature maps.
CPU_FORWARD_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

# With few images on a chip XLA cuts them into strips and treats those as more images
# ("space to batch"), copying their borders at every convolution: about twice the estimated cycles,
# and half more memory. For a v6e it stays on, as compiling without it may exhaust the host's memory
# (benchmarks/NOTES.md).
V5E = "TPU v5 lite"
V5E_OPTIONS = {
    "xla_tpu_run_space_to_batch": "false",
    "xla_tpu_run_space_to_batch_on_new_platforms": "false",
}

MAX_CACHE_BYTES = 2 * 1024**3  # of the default folder; the least recently used programs go first


def options_for(kind: str, forward_only: bool = False) -> dict[str, str]:
    """Returns the compiler options for a kind of device.

    Args:
        kind: the device's `device_kind`.
        forward_only: whether the program computes no gradients.
    """
    cpu = CPU_FORWARD_OPTIONS if forward_only else CPU_OPTIONS
    return {"cpu": cpu, V5E: V5E_OPTIONS}.get(kind, {})


@functools.cache
def compiler_options(forward_only: bool = False) -> dict[str, str]:
    """Returns those options for the default device that the installed jaxlib supports."""
    options = options_for(jax.devices()[0].device_kind, forward_only)
    return {name: value for name, value in options.items() if _known(name, value)}


def _known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit(function: Callable, *, forward_only: bool = False, **kwargs: Any) -> jax.stages.Wrapped:
    """`jax.jit(function, **kwargs)` with `compiler_options()`.

    JAX accepts compiler options for outermost functions only, so one such function may not be
    called inside another.
    """
    return jax.jit(function, compiler_options=compiler_options(forward_only), **kwargs)


def compile_in_background(function: jax.stages.Wrapped, *arguments: Any) -> Callable:
    """Begins to compile a jitted function in another thread, for arguments of these shapes.

    Returns:
        A function that waits for the program and runs it. If compiling failed, as it may while the
        GPU's memory is in use, it logs that at level INFO and calls `function`, which compiles
        again.
    """
    # No daemon: a daemon thread that is inside XLA when Python exits aborts the process.
    executor = ThreadPoolExecutor(1, thread_name_prefix="compiling")
    program = executor.submit(lambda: function.lower(*arguments).compile())
    executor.shutdown(wait=False)

    def run(*arguments: Any) -> Any:
        compiled: Callable = function
        try:
            compiled = program.result()
        except jax.errors.JaxRuntimeError as error:
            logging.getLogger(__name__).info("compiling in the background failed: %s", error)
        return compiled(*arguments)

    return run


def use_compile_cache(shared: Path | None = None) -> None:
    """Caches compiled programs on disk, so that a command compiles them only the first time.

    The folder is JAX_COMPILATION_CACHE_DIR, a path or the address of a bucket. If that is not set,
    it is mprnet_jax in XDG_CACHE_HOME, by default ~/.cache, and limited to `MAX_CACHE_BYTES`.
    JAX's own variables set which programs are cached: by default those that took a second or more
    to compile (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS).

    Several processes use `shared` unless JAX_COMPILATION_CACHE_DIR is set, as only process 0 writes
    programs. On GPUs they use `shared` in any case: there all processes tune kernels together, so a
    process that compiles would wait for ever for one that found its program in another folder.

    Args:
        shared: a folder that is the same one for all processes.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder and paths.is_bucket(folder):
        paths.anywhere(folder)  # sees to what JAX needs for that
    chosen = folder is not None and jax.default_backend() != "gpu"
    if shared and jax.process_count() > 1 and not chosen:
        jax.config.update("jax_compilation_cache_dir", str(shared))
    elif folder is None:
        cache = paths.absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mprnet_jax")
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_compilation_cache_max_size", MAX_CACHE_BYTES)
