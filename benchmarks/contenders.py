"""Builds the contenders' programs.

Functions import the frameworks they use, since each contender has a process of its own.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable

import numpy as np

from benchmarks.work import NEEDS_GPU, PRESETS, Contender, Program, Work
from mprnet_jax.config import DataConfig, ModelConfig, TrainConfig
from mprnet_jax.errors import UserError


def build(contender: Contender, work: Work) -> Program:
    """Returns the contender's program for the work, not compiled yet.

    Raises:
        ImportError: if the contender is not installed.
    """
    return {"jax": build_ours, "torch": build_torch, "onnx": build_runtime}[contender.framework](
        contender, work
    )


def images_of(work: Work) -> np.ndarray:
    """Returns random images [B, H, W, 3], float32 in [0, 1]."""
    shape = (work.batch, work.height, work.width, 3)
    return np.random.default_rng(0).random(shape, np.float32)


def matrix_of(work: Work) -> np.ndarray:
    """Returns a random float32 matrix. Constant numbers draw less power, which is faster."""
    return np.random.default_rng(0).standard_normal((work.height, work.height), np.float32)


def build_ours(contender: Contender, work: Work) -> Program:
    """Builds this package's program: its pure functions under its own `jit`."""
    import jax

    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    if on_cpu and NEEDS_GPU in os.environ:
        raise RuntimeError("this JAX finds no GPU")
    function, arguments = our_function(contender, work)
    compiled = functools.cache(lambda: function.lower(*arguments).compile())
    arrays = functools.cache(lambda: list(jax.device_put(arguments)))

    def run(calls: int) -> None:
        program, placed = compiled(), arrays()
        for _ in range(calls):
            result = program(*placed)
            if work.kind == "train":
                placed[0], result = result
        jax.block_until_ready(result)

    def peak() -> int | None:
        if on_cpu:
            return None
        # From the compiler, since the allocator's peak includes autotuning.
        stats = compiled().memory_analysis()
        outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
        return stats.temp_size_in_bytes + stats.argument_size_in_bytes + outputs

    def held() -> float:
        stats = (not on_cpu and device.memory_stats()) or {}
        kept = stats.get("pool_bytes", stats.get("peak_bytes_in_use", 0))
        return kept / stats.get("bytes_limit", math.inf)

    return Program(compiled, run, peak, held)


def our_function(contender: Contender, work: Work) -> tuple[Callable, tuple]:
    """Returns the jitted function and its arguments."""
    import jax.numpy as jnp

    from mprnet_jax.devices.compiling import jit
    from mprnet_jax.model.mprnet import pure_functions

    if work.kind == "matmul":
        x = jnp.asarray(matrix_of(work), contender.dtype)
        return jit(lambda x: x @ x, forward_only=True), (x,)
    if work.kind == "train":
        return our_training(contender, work)
    init, apply = pure_functions(our_model(contender, work))
    return jit(apply, forward_only=True), (init(0), images_of(work))


def our_model(contender: Contender, work: Work) -> ModelConfig:
    """Returns the network's config with the contender's settings."""
    return dataclasses.replace(PRESETS[work.preset], dtype=contender.dtype, remat=contender.remat)


def our_training(contender: Contender, work: Work) -> tuple[Callable, tuple]:
    """Returns the jitted training step, and the state and batch it starts from."""
    from mprnet_jax.devices.mesh import make_mesh
    from mprnet_jax.model.mprnet import pure_functions
    from mprnet_jax.training.build import build_train_step

    config = TrainConfig(
        name="benchmark",
        model=our_model(contender, work),
        data=DataConfig(),
        total_steps=10**6,
        batch_size=work.batch,
        patch_size=work.height,
    )
    init, _ = pure_functions(config.model)
    init_state, step = build_train_step(config, make_mesh(data=1), init(0))
    images = images_of(work)
    unreadable = np.zeros(work.batch, bool)
    batch = {"degraded": images, "target": images[:, ::-1], "unreadable": unreadable}
    return step, (init_state(), batch)


def torch_device() -> str:
    """Returns PyTorch's device: "cuda" if there is a GPU, else "cpu".

    Raises:
        RuntimeError: if there is no GPU, but `NEEDS_GPU` is set.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and NEEDS_GPU in os.environ:
        raise RuntimeError("this PyTorch finds no GPU")
    return device


def build_torch(contender: Contender, work: Work) -> Program:
    """Builds the PyTorch reference, eager or compiled, on a GPU if there is one."""
    import torch

    device = torch_device()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, as XLA computes float32 on GPUs
    torch.backends.cudnn.allow_tf32 = True
    autocast = functools.partial(
        torch.autocast, device, torch.bfloat16, enabled=contender.dtype == "bfloat16"
    )
    if work.kind == "matmul":
        x = torch.from_numpy(matrix_of(work)).to(device, getattr(torch, contender.dtype))

        def call():
            return x @ x

    else:
        model, images = torch_model(contender, work, device)
        if work.kind == "train":
            call = torch_training(model, images, autocast)
        else:

            def call():
                with torch.inference_mode(), autocast():
                    return model(images)

    return torch_program(call, device, compiles=bool(contender.compiled))


def torch_program(call: Callable[[], object], device: str, compiles: bool) -> Program:
    """Returns a program around `call`, whose first call may compile."""
    import torch

    if device == "cpu":

        def run_on_cpu(calls: int) -> None:
            for _ in range(calls):
                call()

        return Program(call if compiles else lambda: None, run_on_cpu, lambda: None, lambda: 0.0)

    def compile_first() -> None:
        # Others may use the memory now. What was compiled is in the cache for the next call.
        with contextlib.suppress(torch.OutOfMemoryError):
            call()

    def run(calls: int) -> None:
        torch.cuda.reset_peak_memory_stats()  # without the autotuning of the first call
        for _ in range(calls):
            call()
        torch.cuda.synchronize()

    def held() -> float:
        torch.cuda.empty_cache()
        return 0.0  # a new process would use the rest as well

    first = compile_first if compiles else lambda: None
    return Program(first, run, torch.cuda.max_memory_allocated, held)


def torch_model(contender: Contender, work: Work, device: str):
    """Returns the network and random images [B, 3, H, W] on the device."""
    import torch

    from mprnet_jax.weights import torch_reference

    layout = torch.channels_last if contender.channels_last else torch.contiguous_format
    model = torch_reference.build(PRESETS[work.preset]).to(device, memory_format=layout)
    if contender.compiled:
        model = torch.compile(model, mode=contender.compiled)
    images = torch.from_numpy(np.ascontiguousarray(images_of(work).transpose(0, 3, 1, 2)))
    return model, images.to(device, memory_format=layout)


def torch_training(model, degraded, autocast: Callable) -> Callable:
    """Returns a function that takes a training step with the deraining loss and Adam."""
    import torch
    from torch.nn import functional

    target = degraded.flip(2)
    adam = torch.optim.Adam(model.parameters(), lr=2e-4, fused=degraded.is_cuda)
    line = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05], device=degraded.device)
    kernel = torch.outer(line, line).repeat(3, 1, 1, 1)

    def blur(x):
        return functional.conv2d(functional.pad(x, (2, 2, 2, 2), "replicate"), kernel, groups=3)

    def laplacian(x):
        sparse = torch.zeros_like(x)
        sparse[:, :, ::2, ::2] = 4 * blur(x)[:, :, ::2, ::2]
        return x - blur(sparse)

    def charbonnier(x):
        return torch.sqrt(x * x + 1e-6).mean()

    def call() -> None:
        adam.zero_grad()
        with autocast():
            restored = model(degraded)
        differences = [image.float() - target for image in restored]
        loss = sum(charbonnier(d) + 0.05 * charbonnier(laplacian(d)) for d in differences)
        loss.backward()
        adam.step()

    return call


def build_runtime(contender: Contender, work: Work) -> Program:
    """Builds this package's program for a runtime of ONNX models, on CPUs."""
    from mprnet_jax.export import graph, runtimes
    from mprnet_jax.model.mprnet import pure_functions

    images = images_of(work)
    load = functools.partial(runtimes.load, contender.runtime, dtype=contender.dtype)
    try:
        runtimes.import_runtime(contender.runtime)
    except UserError as error:
        raise error.__cause__ or error from None

    @functools.cache
    def loaded() -> runtimes.Runtime:
        config = PRESETS[work.preset]
        model = graph.build(config, pure_functions(config)[0](0), pads=False)
        return load(model.SerializeToString())

    def run(calls: int) -> None:
        for _ in range(calls):
            loaded()(images)

    return Program(loaded, run, lambda: None, lambda: 0.0)
