"""One training step, ours beside the PyTorch reference in turn, in one process.

    python benchmarks/training_step.py [--batch 4] [--patch 64] [--rounds 5] [--preset derain]

Both compute the derain loss and an Adam step in float32 on the CPU. Prints medians and the ratio.
"""

import argparse
import functools
import platform
import statistics
import time

import jax
import numpy as np

from mprnet_jax.config import LossConfig, ModelConfig, OptimConfig
from mprnet_jax.devices.compiling import jit
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.optimizer import make_optimizer
from mprnet_jax.training.state import create_state
from mprnet_jax.training.step import train_step
from mprnet_jax.weights import torch_reference


def our_step(config: ModelConfig, batch: dict[str, np.ndarray]):
    """A function that runs one of our steps and waits for it."""
    init, apply = pure_functions(config)
    optimizer = make_optimizer(OptimConfig(), total_steps=1000)
    step = jit(
        functools.partial(train_step, apply=apply, optimizer=optimizer, loss=LossConfig()),
        donate_argnums=0,
    )
    state = jax.device_put(create_state(init(0), optimizer))

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def torch_step(config: ModelConfig, batch: dict[str, np.ndarray]):
    """A function that runs one step of PyTorch's."""
    import torch
    from torch.nn import functional

    model = torch_reference.build(config)
    adam = torch.optim.Adam(model.parameters(), lr=2e-4)
    degraded, target = (
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        for images in (batch["degraded"], batch["target"])
    )
    line = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05])
    kernel = torch.outer(line, line).repeat(3, 1, 1, 1)

    def blur(x):
        return functional.conv2d(functional.pad(x, (2, 2, 2, 2), "replicate"), kernel, groups=3)

    def laplacian(x):
        sparse = torch.zeros_like(x)
        sparse[:, :, ::2, ::2] = 4 * blur(x)[:, :, ::2, ::2]
        return x - blur(sparse)

    def charbonnier(x):
        return torch.sqrt(x * x + 1e-6).mean()

    def run() -> None:
        adam.zero_grad()
        loss = sum(
            charbonnier(image - target) + 0.05 * charbonnier(laplacian(image) - laplacian(target))
            for image in model(degraded)
        )
        loss.backward()
        adam.step()

    return run


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="derain")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    import torch

    config = getattr(ModelConfig, arguments.preset)()
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.patch, arguments.patch, 3)
    batch = {name: rng.random(shape, np.float32) for name in ("degraded", "target")}
    contenders = {"ours": our_step(config, batch), "PyTorch eager": torch_step(config, batch)}
    seconds = {name: [] for name in contenders}
    for round_ in range(arguments.rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if round_:  # the first compiles and warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(
        f"training step, {arguments.preset}, batch {arguments.batch}, {arguments.patch}x"
        f"{arguments.patch}, float32, {platform.processor() or platform.machine()} CPU, "
        f"jax {jax.__version__}, torch {torch.__version__}"
    )
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"{name:14} median {median:.2f} s ({low:.2f} to {high:.2f})")
    print(f"ours / PyTorch eager: {medians['ours'] / medians['PyTorch eager']:.2f}")


if __name__ == "__main__":
    main()
