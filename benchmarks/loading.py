"""Times reading training pairs from folders and from prepared sets.

    python -m benchmarks.loading

Pictures have GoPro's size, 1280x720 PNG. One thread reads pairs in random order and cuts one
256x256 patch out of each. Files are in the page cache.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from benchmarks.tables import heading
from mprnet_jax.data.cutting import overlapping_pieces
from mprnet_jax.data.pairs import Example, PairFolder
from mprnet_jax.data.prepared import Prepared, write_prepared

PAIRS = 12
PATCH = 256
SECONDS = 5  # per source


def write_pictures(folder: Path) -> None:
    """Writes sharp and blurred pictures with a camera's noise."""
    photo = cv2.resize(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR), (1280, 1280))
    random = np.random.default_rng(0)
    for number in range(PAIRS):
        sharp = np.roll(photo, 100 * number, axis=0)[:720]
        for role, image in (("input", cv2.blur(sharp, (15, 1))), ("target", sharp)):
            grain = random.normal(0, 3, image.shape)
            (folder / role).mkdir(parents=True, exist_ok=True)
            image = np.uint8(np.clip(image + grain, 0, 255))
            cv2.imwrite(str(folder / role / f"{number}.png"), image)


def pairs_per_second(source: Sequence[Example]) -> float:
    """Returns how many pairs per second one thread reads and crops."""
    random = np.random.default_rng(0)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        example = source[int(random.integers(len(source)))]
        height, width = example["target"].shape[:2]
        y, x = random.integers((height - PATCH + 1, width - PATCH + 1))
        for image in example.values():
            np.ascontiguousarray(image[y : y + PATCH, x : x + PATCH])
        count += 1
    return count / (time.perf_counter() - start)


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # only for --help
    print(heading("Loading", "python -m benchmarks.loading"))
    print("| training pairs of 1280x720 | MB a pair | pairs/s and core |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_pictures(root / "pictures")
        pictures = PairFolder(root / "pictures")
        rows = [("folders", pictures, root / "pictures")]
        for name, cut, raw in (
            ("prepared", None, False),
            ("prepared, --cut 512", overlapping_pieces(512), False),
            ("prepared, --raw", None, True),
            ("prepared, --cut 512 --raw", overlapping_pieces(512), True),
        ):
            folder = write_prepared(root, f"set{len(rows)}", {"train": pictures}, cut=cut, raw=raw)
            rows.append((name, Prepared(folder, "train"), folder))
        for name, source, folder in rows:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"| {name} | {size / PAIRS / 1e6:.1f} | {pairs_per_second(source):.0f} |")


if __name__ == "__main__":
    main()
