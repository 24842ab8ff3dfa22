"""How long the training command takes from its start to its first finished step.

    python -m benchmarks.startup WORKDIR

is that command with the sample config, which ends there, with the compile cache as it is.
"""

import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import table

CONFIG = Path(__file__).parents[1] / "configs" / "derain.py"


def start(workdir: str) -> None:
    """The training command, until the metrics of the first step are on the host."""
    from mprnet_jax.training import loop

    def update(*_) -> None:
        os._exit(0)

    loop.Progress.update = update  # called with the metrics of each step
    sys.argv = ["train", "--config", f"{CONFIG}:sample", "--workdir", workdir]
    runpy.run_module("mprnet_jax.train", run_name="__main__", alter_sys=True)


def seconds_to_first_step(cache: str) -> float:
    """Of a new process with its compile cache in this folder."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    with tempfile.TemporaryDirectory() as workdir:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.startup", workdir],
            env=environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - begin


def section(rounds: int) -> str:
    """A heading and a table."""
    title = "## From the command to its first training step, configs/derain.py:sample\n\n"
    with tempfile.TemporaryDirectory() as cache:
        try:
            cold = seconds_to_first_step(cache)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode().strip().splitlines()[-1]
            return f"{title}Not measured: {reason}\n"
        warm = [seconds_to_first_step(cache) for _ in range(rounds)]
    rows = [["empty", f"{cold:.1f}"], ["warm", ", ".join(f"{s:.1f}" for s in warm)]]
    return title + table(["compile cache", "seconds"], rows) + "\n"


if __name__ == "__main__":
    start(sys.argv[1])
