"""How long the training command takes from its start to its first finished step.

    python -m benchmarks.startup

does one start of the sample config with the compile cache as it is, and prints nothing.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import table

CONFIG = Path(__file__).parents[1] / "configs" / "derain.py"


class FirstStepDone(Exception):
    """Ends the run."""


def start() -> None:
    """Trains until the metrics of the first step are on the host."""
    import importlib.util

    from mprnet_jax.training import loop

    spec = importlib.util.spec_from_file_location("config", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def update(*_) -> None:
        raise FirstStepDone

    loop.Progress.update = update  # called with the metrics of each step
    with tempfile.TemporaryDirectory() as workdir, contextlib.suppress(FirstStepDone):
        loop.train(module.get_config("sample"), Path(workdir))


def seconds_to_first_step(cache: str) -> float:
    """Of a new process with its compile cache in this folder."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.startup"],
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
    start()
