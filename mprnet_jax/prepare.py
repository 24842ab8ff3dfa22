"""Prepares a data set once, for fast training from any number of processes and machines.

Example:

    python -m mprnet_jax.prepare --benchmark GoPro --source datasets --data_dir prepared

--source is the folder that holds the set's own folders, or what the set's authors hand out, a
folder or a .zip archive, or the folder that holds that (docs/datasets.md). Where decoding large
pictures is slower than the device, --cut 512 stores overlapping pieces of training pictures, and
--raw stores arrays.
"""

import contextlib
import sys

from absl import flags

from mprnet_jax import paths
from mprnet_jax.command import run
from mprnet_jax.data.archives import Unpacked, find_archive, unpacked
from mprnet_jax.data.datasets import BENCHMARKS, TRAINING_SETS, find_dataset, normalized_name
from mprnet_jax.data.opening import open_splits
from mprnet_jax.data.pairing import NoPairs
from mprnet_jax.data.pairs import Source
from mprnet_jax.errors import UserError

BENCHMARK = flags.DEFINE_string("benchmark", "", "Name of the set, such as GoPro.")
SOURCE = flags.DEFINE_string(
    "source", "", "Folder that holds the set's folders or archive, or one of these itself."
)
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder for prepared sets.")
CUT = flags.DEFINE_integer("cut", 0, "Side of the pieces of training pictures; 0: uncut.")
RAW = flags.DEFINE_bool("raw", False, "Store arrays: larger on disk, but nothing to decode.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the positions of SIDD's 300 patches per photo.", 0)

SIDD_PATCHES, SIDD_SIZE = 300, 256
SMALLEST_CUT = 64
SETS = {"train": TRAINING_SETS, "test": BENCHMARKS}


def main() -> None:
    """Runs the command."""
    from mprnet_jax.data.cutting import overlapping_pieces, random_patches
    from mprnet_jax.data.prepared import write_prepared

    if paths.is_bucket(DATA_DIR.value):
        raise UserError(
            f"--data_dir={DATA_DIR.value}: sets are prepared on a disk; give a folder, then copy "
            f"them: gcloud storage cp -r FOLDER/* {DATA_DIR.value}/"
        )
    find_dataset({**TRAINING_SETS, **BENCHMARKS}, BENCHMARK.value)  # raises if unknown
    key = normalized_name(BENCHMARK.value)
    name, cut = key, None
    if CUT.value:
        if CUT.value < SMALLEST_CUT:
            raise UserError(f"--cut={CUT.value}: must be at least {SMALLEST_CUT}")
        if key == "sidd" or key not in TRAINING_SETS:
            raise UserError(
                f"--cut={CUT.value}: is for Rain13K, GoPro, RealBlur and BSD: other test sets are "
                "not cut, and SIDD is cut into patches anyway; leave it out"
            )
        name, cut = f"{name}_cut{CUT.value}", overlapping_pieces(CUT.value)
    if key == "sidd":
        cut = random_patches(SIDD_PATCHES, SIDD_SIZE, SEED.value)
    if RAW.value:
        name += "_raw"
    with contextlib.ExitStack() as stack:
        splits, archive = find_splits(key, stack)
        for split, sets in SETS.items():
            if key in sets and split not in splits:
                print(
                    f"{name}: is prepared without split {split}, which {SOURCE.value} does not "
                    "hold",
                    file=sys.stderr,
                )
        # Pictures in folders can be repaired; of an archive the rest goes on.
        unread: dict[str, list[str]] | None = {} if archive else None
        folder = write_prepared(
            DATA_DIR.value, name, splits, raw=RAW.value, cut=cut, left_out=unread
        )
    counts = []
    for split, found in splits.items():
        count = len(found) - len(unread[split] if unread else [])
        complete = SETS[split][key].num_examples
        counts.append(f"{split} ({count} of {complete})" if complete else f"{split} ({count})")
    print(paths.shown(f"{folder}: {', '.join(counts)}"))
    if archive and unread:
        report_left_out(archive, [line for lines in unread.values() for line in lines])


def report_left_out(archive: Unpacked, unread: list[str]) -> None:
    """Prints what was left out of an archive; raises UserError if anything was."""
    for line in [*archive.left_out, *unread]:
        print(paths.shown(archive.named(line)), file=sys.stderr)
    if archive.left_out or unread:
        raise UserError(
            f"{archive.archive}: {len(archive.left_out)} members and {len(unread)} pairs were left "
            "out, as listed above; download it anew and remove what was prepared"
        )


def find_splits(key: str, stack: contextlib.ExitStack) -> tuple[dict[str, Source], Unpacked | None]:
    """Opens the splits of a set in --source: those in folders, and others in its archive.

    Args:
        key: of the set.
        stack: keeps the archive unpacked.

    Returns:
        The splits, and the archive, if one was unpacked.

    Raises:
        UserError: if there are no splits.
    """
    source = paths.absolute(SOURCE.value)
    splits: dict[str, Source] = {}
    missing: NoPairs | None = None
    if not source.is_file():
        try:
            splits = open_splits(key, source)
        except NoPairs as error:
            missing = error
    datasets = [sets[key] for sets in SETS.values() if key in sets]
    found = find_archive(datasets, source) if source.exists() else None
    if found is None or len(splits) == len(datasets):
        if missing:
            raise missing
        return splits, None
    archive = stack.enter_context(unpacked(*found, paths.absolute(DATA_DIR.value)))
    # The archive may hold the set's folders, or be one of them.
    roots = archive.folder, archive.folder.parent
    return open_splits(key, *roots) | splits, archive


if __name__ == "__main__":
    run(main, required=(BENCHMARK, SOURCE, DATA_DIR))
