"""Times `restore` on folders of photos of many sizes, this package beside another version of it.

    python -m benchmarks.sizes --against OTHER_CHECKOUT [--rounds 1] [--only '24 photos']

Each run is the whole command in a process of its own with empty caches. Both versions run in
alternation, and their results are compared. Programs are counted by JAX's monitoring events.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tables import heading, table

HERE = Path(__file__).parents[1]
COMMAND = """
import json, runpy, sys, time
start = time.perf_counter()
import jax
programs = []
def listen(event, seconds, fun_name="", **details):
    if event == "/jax/core/compile/backend_compile_duration" and "restore" in fun_name:
        programs.append(seconds)
jax.monitoring.register_event_duration_secs_listener(listen)
sys.argv = ["restore", *sys.argv[1:]]
try:
    runpy.run_module("mprnet_jax.restore", run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code:
        raise
print(json.dumps([time.perf_counter() - start, len(programs)]))
"""


FORMATS = ((4, 3), (3, 2), (1, 1), (16, 9))  # width to height
CASES = {
    "24 photos of 24 sizes, 96 to 224 pixels a side": (24, 24, 96, 224),
    "40 photos of 40 sizes, 160 to 640 pixels a side": (40, 40, 160, 640),
    "16 photos of one size, 160x160": (16, 1, 160, 160),
}


def photo_sizes(count: int, low: int, high: int) -> list[tuple[int, int]]:
    """Returns heights and widths of photos in usual formats, of which 30 % are upright.

    All are different when padded to multiples of 8.
    """
    rng = np.random.default_rng(0)
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    while len(sizes) < count:
        width = int(rng.integers(low, high + 1))
        ratio = FORMATS[rng.integers(len(FORMATS))]
        size = (width * ratio[1] // ratio[0], width)
        size = size[::-1] if rng.random() < 0.3 else size
        if min(size) >= low:
            sizes.setdefault(tuple(-(-side // 8) for side in size), size)
    return list(sizes.values())


def write_photos(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Writes photos of noise as PNG files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


def restore(checkout: Path, weights: Path, photos: Path, output: Path) -> tuple[float, int]:
    """Runs a checkout's command; returns its seconds and the number of programs it compiled."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [
                *(sys.executable, "-c", COMMAND, f"--weights={weights}"),
                *(f"--input={photos}", f"--output={output}"),
            ],
            cwd=checkout,
            env={
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(checkout),
            },
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def largest_difference(one: Path, other: Path) -> int:
    """Returns the largest difference of pixels of two folders of pictures, out of 255."""
    pairs = [(Image.open(path), Image.open(other / path.name)) for path in sorted(one.iterdir())]
    return max(int(np.abs(np.int16(a) - np.int16(b)).max()) for a, b in pairs)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--against", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the names of what to do")
    parser.add_argument("--preset", default="derain")
    arguments = parser.parse_args()

    from benchmarks.work import PRESETS
    from mprnet_jax.model.mprnet import pure_functions
    from mprnet_jax.weights import files

    config = PRESETS[arguments.preset]
    print(
        heading(f"Photos of many sizes, {arguments.preset}, float32", "python -m benchmarks.sizes")
    )
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        files.write(weights, config, pure_functions(config)[0](0))
        for number, (title, (count, different, low, high)) in enumerate(CASES.items()):
            if arguments.only not in title:
                continue
            sizes = photo_sizes(different, low, high) * (count // different)
            photos = folder / f"photos{number}"
            write_photos(photos, sizes)
            measured = {}
            for repeat in range(arguments.rounds):
                for checkout in (arguments.against.absolute(), HERE):
                    output = folder / f"{number}-{repeat}-{checkout == HERE}"
                    found = restore(checkout, weights, photos, output)
                    measured.setdefault(checkout == HERE, []).append((*found, output))
                    print(title, "this" if checkout == HERE else "other", found, file=sys.stderr)
            seconds = {ours: statistics.median(m[0] for m in measured[ours]) for ours in measured}
            difference = largest_difference(measured[True][0][2], measured[False][0][2])
            programs = [measured[ours][0][1] for ours in (False, True)]
            figures = [f"{seconds[False]:.1f}", f"{seconds[True]:.1f}"]
            figures.append(f"{seconds[True] / seconds[False]:.2f}")
            rows.append([title, *figures, *map(str, programs), str(difference)])
    head = ["", "other s", "this s", "this / other", "programs, other", "this"]
    print(table([*head, "largest difference, of 255"], rows))


if __name__ == "__main__":
    main()
