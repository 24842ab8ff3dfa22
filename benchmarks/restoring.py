"""Memory and time of restoring one photo on the CPU: ours, ours under a limit, and PyTorch.

    python benchmarks/restoring.py [--height 1280] [--width 2276] [--preset deblur] [--limit_gb 4]

Each contender runs in a process of its own, one after the other, with random weights in float32.
Memory is the peak of the whole process with Python and libraries. Time is that of one photo without
compiling. A process that leaves the machine no memory is stopped, and the table says so.
"""

import argparse
import contextlib
import json
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import psutil

from mprnet_jax.config import ModelConfig

SPARED = 2**29  # bytes of the machine's memory that must stay available


def restore_ours(config: ModelConfig, photo: np.ndarray, limit: float | None) -> str:
    """Restores with `Restorer(tile="auto")`; returns time and tiles."""
    from mprnet_jax.model.mprnet import pure_functions, with_params
    from mprnet_jax.restoration.restorer import Restorer

    model = with_params(config, pure_functions(config)[0](0))
    restorer = Restorer(model, memory_limit=limit and int(limit * 2**30))
    start = time.perf_counter()
    grid = restorer.grid_of(photo)
    compiled = time.perf_counter()
    restorer(photo)
    seconds = time.perf_counter() - compiled
    tiles = len(grid.places)
    cut = "whole" if tiles == 1 else f"{tiles} tiles of {grid.columns.tile}x{grid.rows.tile}"
    return f"{seconds:7.1f} s, {cut}, compiled in {compiled - start:.1f} s"


def restore_torch(config: ModelConfig, photo: np.ndarray) -> str:
    """Restores the whole photo with the PyTorch reference; returns the time."""
    import torch

    from mprnet_jax.weights import torch_reference

    model = torch_reference.build(config).eval()
    padded = np.pad(photo, [(0, -side % 8) for side in photo.shape[:2]] + [(0, 0)], "reflect")
    image = torch.from_numpy(padded.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    start = time.perf_counter()
    with torch.inference_mode():
        model(image)
    return f"{time.perf_counter() - start:7.1f} s, whole"


def run_contender(name: str, arguments: argparse.Namespace) -> None:
    """Runs one contender in this process and prints its result as JSON."""
    config = getattr(ModelConfig, arguments.preset)()
    size = (arguments.height, arguments.width, 3)
    photo = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    if name == "PyTorch eager":
        outcome = restore_torch(config, photo)
    else:
        outcome = restore_ours(config, photo, arguments.limit_gb if "under" in name else None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "outcome": outcome}))


def watch(command: list[str]) -> dict:
    """Runs a contender in a process of its own; stops it if the machine has no memory left."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        if psutil.virtual_memory().available < SPARED:
            process.kill()
            process.wait()
            return {"peak": peak, "outcome": "and more: stopped, the machine has no memory left"}
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(process.stdout.read().splitlines()[-1])


def main() -> None:
    """Runs all contenders and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=1280)
    parser.add_argument("--width", type=int, default=2276)
    parser.add_argument("--preset", default="deblur")
    parser.add_argument("--limit_gb", type=float, default=4)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        run_contender(arguments.contender, arguments)
        return

    print(
        f"restoring {arguments.width}x{arguments.height}, {arguments.preset}, float32, "
        f"{platform.processor() or platform.machine()} CPU"
    )
    for name in ("ours", f"ours under {arguments.limit_gb:g} GB", "PyTorch eager"):
        command = [sys.executable, __file__, *sys.argv[1:], f"--contender={name}"]
        outcome = watch(command)
        print(f"{name:18} peak {outcome['peak'] / 2**30:6.2f} GiB {outcome['outcome']}", flush=True)


if __name__ == "__main__":
    main()
