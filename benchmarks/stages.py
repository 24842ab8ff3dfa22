"""Parameters, multiply-adds and seconds of each network's first stages (the paper's table 7).

    python -m benchmarks.stages [--networks derain deblur] [--repeats 5]

Parameters are those on which the image of the last computed stage depends; multiply-adds are those
of convolutions for 256x256 pixels. Seconds are for one image of 256x256 in float32 with random
weights: the median of several forward passes, after one that is not counted.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from benchmarks.tables import heading, table
from mprnet_jax.config import PUBLISHED, ModelConfig
from mprnet_jax.devices import compiling
from mprnet_jax.model.cost import forward_flops, parameters_used
from mprnet_jax.model.mprnet import pure_functions

SIDE = 256
HEAD = ["network", "stages", "parameters", "multiply-adds, G", "seconds", "of all stages' seconds"]


def seconds(config: ModelConfig, stages: int, repeats: int) -> float:
    """Returns the median time of the first stages for one image."""
    init, apply = pure_functions(config)
    restore = compiling.jit(functools.partial(apply, stages=stages), forward_only=True)
    params = jax.device_put(init(0))
    image = jax.device_put(np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        # Only the last image: the others would be computed for nothing.
        jax.block_until_ready(restore(params, image)[0])
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def rows(name: str, config: ModelConfig, repeats: int) -> Iterator[list[str]]:
    """Yields the rows of one network."""
    counts = range(1, len(config.subnets) + 1)
    times = [seconds(config, stages, repeats) for stages in tqdm(counts, name)]
    for stages, spent in zip(counts, times, strict=True):
        yield [
            name,
            str(stages),
            f"{parameters_used(config, stages):,}",
            f"{forward_flops(config, SIDE, SIDE, stages) / 2e9:.1f}",
            f"{spent:.3f}",
            f"{spent / times[-1]:.0%}",
        ]


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=PUBLISHED, default=[*PUBLISHED])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    compiling.use_compile_cache()
    measured = [
        row for name in arguments.networks for row in rows(name, PUBLISHED[name], arguments.repeats)
    ]
    print(
        heading("Stages of the networks", f"python -m benchmarks.stages {' '.join(sys.argv[1:])}")
    )
    print(table(HEAD, measured))


if __name__ == "__main__":
    main()
