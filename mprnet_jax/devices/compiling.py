"""`jax.jit` with the compiler options that suit the backend, and the compile cache on disk."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

# XLA's default lowering of dots and of the reductions in weight gradients is slow on CPUs; its YNN
# library is not. benchmarks/ times both.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}

# Without gradients the library's dots gain no time, and they hold copies of maps.
CPU_FORWARD_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

# With few images on a chip XLA would lay strips of them side by side as more images, and copy their
# borders from strip to strip at every convolution: about twice the estimated cycles, and half more
# memory. For a v6e, compiling without that takes so much of the host's memory that it may run out
# (benchmarks/NOTES.md).
V5E = "TPU v5 lite"
V5E_OPTIONS = {
    "xla_tpu_run_space_to_batch": "false",
    "xla_tpu_run_space_to_batch_on_new_platforms": "false",
}


SHORTEST_KEPT = 1.0  # seconds; programs that compile faster are not kept on disk


def options_for(kind: str, forward_only: bool = False) -> dict[str, str]:
    """The options that suit a kind of device, as its `device_kind` names it."""
    cpu = CPU_FORWARD_OPTIONS if forward_only else CPU_OPTIONS
    return {"cpu": cpu, V5E: V5E_OPTIONS}.get(kind, {})


@functools.cache
def compiler_options(forward_only: bool = False) -> dict[str, str]:
    """The options for the default device, without those that the installed jaxlib lacks."""
    options = options_for(jax.devices()[0].device_kind, forward_only)
    return {name: value for name, value in options.items() if _known(name, value)}


def _known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit(function: Callable, *, forward_only: bool = False, **kwargs: Any) -> Callable:
    """`jax.jit(function, **kwargs)` with `compiler_options()`; for outermost functions only."""
    return jax.jit(function, compiler_options=compiler_options(forward_only), **kwargs)


def compile_in_background(function: Callable, *arguments: Any) -> Callable:
    """Begins to compile a jitted function in another thread, for arguments of these shapes.

    Returns:
        A function that waits for the program and runs it; or compiles again if that failed, as it
        may where the thread found a GPU's memory in use.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="compiling")
    program = executor.submit(lambda: function.lower(*arguments).compile())
    executor.shutdown(wait=False)

    def run(*arguments: Any) -> Any:
        try:
            compiled = program.result()
        except jax.errors.JaxRuntimeError:
            compiled = function
        return compiled(*arguments)

    return run


def use_compile_cache(shared: Path | None = None) -> None:
    """Keeps compiled programs on disk, so that the next start of a command skips compiling.

    They lie in JAX_COMPILATION_CACHE_DIR, by default in ~/.cache/mprnet_jax, and in `shared` where
    there are several processes: only the first one writes what all of them read. With GPUs they lie
    in `shared` in any case: they share the trying of kernels, and one that compiles would wait for
    one that found its program on a disk of its own.
    """
    chosen = jax.config.jax_compilation_cache_dir is not None and jax.default_backend() != "gpu"
    if shared and jax.process_count() > 1 and not chosen:
        jax.config.update("jax_compilation_cache_dir", str(shared))
    elif jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(cache) / "mprnet_jax"))
        jax.config.update("jax_compilation_cache_max_size", 2 * 1024**3)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_KEPT)
