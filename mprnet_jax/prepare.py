"""Prepares a data set once, for fast training from any number of processes and machines.

Example:

    python -m mprnet_jax.prepare --benchmark GoPro --source datasets --data_dir prepared

--source is the folder that holds the set's own folders. Where decoding large pictures is slower
than the device, --cut 512 stores overlapping pieces of training pictures, and --raw stores arrays.
"""

import sys

from absl import flags

from mprnet_jax import paths
from mprnet_jax.command import run
from mprnet_jax.data.datasets import BENCHMARKS, TRAINING_SETS, find_dataset, normalized_name
from mprnet_jax.data.opening import open_splits
from mprnet_jax.errors import UserError

BENCHMARK = flags.DEFINE_string("benchmark", "", "Name of the set, such as GoPro.")
SOURCE = flags.DEFINE_string("source", "", "Folder that holds the set's folders.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder for prepared sets.")
CUT = flags.DEFINE_integer("cut", 0, "Side of the pieces of training pictures; 0: uncut.")
RAW = flags.DEFINE_bool("raw", False, "Store arrays: larger on disk, but nothing to decode.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the positions of SIDD's 300 patches per photo.", 0)

SIDD_PATCHES, SIDD_SIZE = 300, 256
SMALLEST_CUT = 64
SETS = {"train": TRAINING_SETS, "test": BENCHMARKS}


def main() -> None:
    """Runs the command."""
    from mprnet_jax.data.prepared import overlapping_pieces, random_patches, write_prepared

    find_dataset({**TRAINING_SETS, **BENCHMARKS}, BENCHMARK.value)  # raises if unknown
    key = normalized_name(BENCHMARK.value)
    name, cut = key, None
    if CUT.value:
        if CUT.value < SMALLEST_CUT:
            raise UserError(f"--cut={CUT.value}: must be at least {SMALLEST_CUT}")
        if key == "sidd" or key not in TRAINING_SETS:
            raise UserError(
                f"--cut={CUT.value}: is for Rain13K and GoPro: test sets are not cut, and SIDD is "
                "cut into patches anyway; leave it out"
            )
        name, cut = f"{name}_cut{CUT.value}", overlapping_pieces(CUT.value)
    if key == "sidd":
        cut = random_patches(SIDD_PATCHES, SIDD_SIZE, SEED.value)
    if RAW.value:
        name += "_raw"
    splits = open_splits(key, SOURCE.value)
    for split, sets in SETS.items():
        if key in sets and split not in splits:
            print(
                f"{name}: is prepared without split {split}, which {SOURCE.value} does not hold",
                file=sys.stderr,
            )
    folder = write_prepared(DATA_DIR.value, name, splits, raw=RAW.value, cut=cut)
    counts = [
        f"{split} ({len(found)} of {SETS[split][key].num_examples})"
        for split, found in splits.items()
    ]
    print(paths.shown(f"{folder}: {', '.join(counts)}"))


if __name__ == "__main__":
    run(main, required=(BENCHMARK, SOURCE, DATA_DIR))
