"""Times commands from their start to their first result, beside eager PyTorch.

    python -m benchmarks.first WORKDIR [FLAG ...]

is the training command with the sample config, which ends when the metrics of its first step are on
the host. The other commands end by themselves. Each runs with empty compile caches, and again with
the caches of the first run. PyTorch, which has no caches, runs after each of the two.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.limit import Limit
from benchmarks.tables import line, table
from benchmarks.work import PRESETS
from mprnet_jax.config import ModelConfig

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "derain.py"
TRAINING = "startup, training step of the derain sample"
PHOTO = "startup, restore, one photo of 4000x3000, deblur"
SIZES = "startup, restore, 30 photos of 30 sizes of 400 to 1200 pixels a side, deblur"
VALIDATE = "startup, convert --validate, derain"
STARTS = (TRAINING, PHOTO, SIZES, VALIDATE)
TINY_FLAGS = ("model.width=8", "model.unet_growth=4", "model.orsnet_growth=4", "batch_size=2")
TINY_FLAGS += ("model.cabs_per_orb=1", "patch_size=16", "validation_crop=32")


@dataclass(frozen=True)
class Start:
    """A command of this package and one of PyTorch; {new} stands for a path to create."""

    ours: list[str]
    eager: list[str] | None


def train(workdir: str, flags: list[str]) -> None:
    """Runs the training command until the metrics of the first step are on the host."""
    from mprnet_jax.training.progress import Progress

    def update(*_) -> None:
        os._exit(0)

    Progress.update = update  # called with the metrics of each step
    sys.argv = ["train", "--config", f"{CONFIG}:sample", "--workdir", workdir, *flags]
    runpy.run_module("mprnet_jax.train", run_name="__main__", alter_sys=True)


def start_of(name: str, folder: Path, smoke: bool) -> Start:
    """Returns the commands; writes what they read into the folder."""
    eager = ["benchmarks.eager", "restore", f"{folder}/deblur.safetensors"]
    if name == TRAINING:
        flags = [f"--config.{flag}" for flag in TINY_FLAGS if smoke]
        config = runpy.run_path(str(CONFIG))["get_config"]("sample")
        model = PRESETS["tiny"] if smoke else config.model
        sizes = [model.width, model.unet_growth, model.orsnet_growth, model.cabs_per_orb]
        sizes += [2, 16] if smoke else [config.batch_size, config.patch_size]
        step = ["benchmarks.eager", "step", *map(str, sizes)]
        return Start(["benchmarks.first", "{new}", *flags], step)
    if name == VALIDATE:
        weights = write_weights(folder / "derain.safetensors", "short" if smoke else "derain")
        output = "--output={new}.safetensors"
        return Start(["mprnet_jax.convert", f"--input={weights}", output, "--validate"], None)
    weights = write_weights(folder / "deblur.safetensors", "short" if smoke else "deblur")
    if name == PHOTO:
        sizes = [(64, 48)] if smoke else [(4000, 3000)]
    else:
        rng = np.random.default_rng(0)
        sizes = rng.integers(*((40, 121) if smoke else (400, 1201)), (3 if smoke else 30, 2))
    photos = write_photos(folder / f"{len(sizes)} photos", sizes)
    ours = ["mprnet_jax.restore", f"--weights={weights}", f"--input={photos}", "--output={new}"]
    return Start([*ours, "--dtype=bfloat16"], [*eager, str(photos), "{new}"])


def write_weights(path: Path, preset: str) -> Path:
    """Writes random weights of a network, unless they exist."""
    from mprnet_jax.model.mprnet import pure_functions
    from mprnet_jax.weights import files

    if not path.exists():
        config: ModelConfig = PRESETS[preset]
        files.write(path, config, pure_functions(config)[0](0))
    return path


def write_photos(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Writes photos of these widths and heights: soft random colours with a little noise."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        colours = rng.integers(0, 240, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
        soft = Image.fromarray(colours).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        noise = rng.integers(0, 16, (height, width, 3), np.uint8)
        Image.fromarray(np.asarray(soft) // 16 * 15 + noise).save(folder / f"{i:02}.png")
    return folder


def seconds_of(command: list[str], environment: dict[str, str], limit: Limit) -> float | str:
    """Returns the seconds that a command takes, or why there is no such figure."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [word.replace("{new}", f"{folder}/new") for word in command]
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(timeout=min(max(0.0, limit.left()), 10**6))
        except subprocess.TimeoutExpired:
            seconds = time.perf_counter() - begin
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"no end after {seconds:.0f} s: {limit.message.split(': ')[1]}"
        seconds = time.perf_counter() - begin
    return seconds if process.returncode == 0 else why(errors, process.returncode)


def why(errors: str, status: int) -> str:
    """Returns why a command failed, from what it wrote to stderr."""
    last = (errors.strip().splitlines() or [f"ended with status {status}"])[-1]
    _, found, module = last.partition("No module named ")
    if found:
        return module.strip("'") + " is not installed"
    return last[:160].replace("|", "/")


def measure(start: Start, rounds: int, environment: dict[str, str], limit: Limit) -> list[str]:
    """Returns the cells of a row: this package cold, then warm `rounds` times, and PyTorch."""
    cold, warm, eager = [], [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        caches = {"XDG_CACHE_HOME": cache, "CUDA_CACHE_PATH": f"{cache}/cuda"}
        for i in range(1 + rounds):
            times = warm if i else cold
            for command, results in ((start.ours, times), (start.eager, eager)):
                if command is None or any(isinstance(result, str) for result in results):
                    continue
                if limit.left() <= 0:
                    results.append(limit.message)
                else:
                    results.append(seconds_of(command, environment | caches, limit))
            if isinstance(cold[0], str):
                break
    return [cell(cold), cell(warm), cell(eager) if start.eager else "it has no such command"]


def cell(results: list[float | str]) -> str:
    """Formats seconds, or what went wrong."""
    return ", ".join(r if isinstance(r, str) else f"{r:.1f}" for r in results)


def section(
    names: list[str], rounds: int, smoke: bool, environment: dict[str, str], limit: Limit
) -> Iterator[str]:
    """Yields the lines of a section, each as soon as it is measured.

    Args:
        names: which of STARTS.
        rounds: number of runs with warm caches.
        smoke: runs on tiny sizes.
        environment: variables of the commands.
        limit: of time.
    """
    environment = {k: v for k, v in environment.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    head = ["seconds from the start", "ours, empty caches", "ours, warm caches", "PyTorch eager"]
    yield f"## First result\n\n{table(head, [])}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in names:
            try:
                start = start_of(name, Path(folder), smoke)
            except ImportError as error:
                cells = [f"{error.name} is not installed", "", ""]
            else:
                cells = measure(start, rounds, environment, limit)
            yield line([name.removeprefix("startup, "), *cells])
    yield ""


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2:])
