"""Times `restore` of a folder of photos by engine, and measures the memory of runtimes, on the CPU.

    python -m benchmarks.engines restore [--size 1280x720] [--photos 20] [--only openvino]
    python -m benchmarks.engines memory [--size 512x512] [--batch 1] [--only openvino]

`restore` runs the whole command, each time in a process of its own with empty caches, beside a
script of eager PyTorch in float32: seconds from the start to the first written photo and to the
end. `--size mixed` is for photos of as many sizes, 240 to 720 pixels a side. `memory` is what the
peak of a process rises by in a forward, in bytes per pixel and channel of the widest stage.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import sizes
from benchmarks.contenders import build_runtime
from benchmarks.tables import heading, line, table
from benchmarks.work import PRESETS, Contender, Work

EAGER = "PyTorch eager"
ENGINES = ("jax", "onnxruntime", "openvino", EAGER)
ROOT = Path(__file__).parents[1]


def time_restore(engine: str, weights: str, photos: Path, output: Path) -> tuple[float, float]:
    """Returns the seconds to the first photo in the output, and to the end."""
    if engine == EAGER:
        command = ["benchmarks.eager", "restore", weights, str(photos), str(output), "float32"]
    else:
        command = ["mprnet_jax.restore", f"--weights={weights}", f"--input={photos}"]
        command += [f"--output={output}", f"--engine={engine}"]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
        start, first = time.perf_counter(), None
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            time.sleep(0.05)
            if first is None and any(output.glob("*.png")):
                first = time.perf_counter() - start
        total = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return first or total, total


def restore(arguments: argparse.Namespace) -> None:
    """Prints the table of times."""
    if arguments.size == "mixed":
        chosen = sizes.photo_sizes(arguments.photos, 240, 720)
    else:
        width, height = map(int, arguments.size.split("x"))
        chosen = [(height, width)] * arguments.photos
    head = ["", "first photo s", "all s", "largest difference from the first row, of 255"]
    print(table(head, []), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes.write_photos(folder / "photos", chosen)
        reference = None
        for number, engine in enumerate(arguments.only):
            output = folder / str(number)
            first, total = time_restore(engine, arguments.weights, folder / "photos", output)
            reference = reference or output
            difference = sizes.largest_difference(output, reference)
            print(line([engine, f"{first:.1f}", f"{total:.1f}", str(difference)]), flush=True)


def memory(arguments: argparse.Namespace) -> None:
    """Prints the memory of one runtime."""
    (runtime,) = arguments.only
    config = PRESETS[arguments.preset]
    width, height = map(int, arguments.size.split("x"))
    work = Work("forward", arguments.preset, arguments.batch, height, width)
    program = build_runtime(Contender(runtime, "onnx", runtime=runtime), work)
    program.compile()
    before = psutil.Process().memory_info().rss
    program.run(1)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    features = arguments.batch * height * width * max(map(config.stage_width, config.subnets))
    print(f"{runtime}, {work}: {(peak - before) / features:.1f} bytes per pixel and channel")


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.engines",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("what", choices=["restore", "memory"])
    parser.add_argument("--size", default="1280x720", help="width x height, or mixed")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--weights", default="denoise", help="of restore: as its --weights")
    parser.add_argument("--preset", default="derain", choices=PRESETS, help="of memory")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if arguments.what == "memory":
        memory(arguments)
        return
    command = f"python -m benchmarks.engines restore --size {arguments.size}"
    title = f"Photos by engine, {arguments.weights}, {arguments.photos} of {arguments.size}"
    print(heading(title, f"{command} --photos {arguments.photos} --weights {arguments.weights}"))
    restore(arguments)


if __name__ == "__main__":
    main()
