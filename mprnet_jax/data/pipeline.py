"""From a source of examples to batches: grain for training, plain iteration for validation.

Batches are dicts of uint8 [B, H, W, 3]: "degraded" and "target".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import jax
import numpy as np
from absl import flags

from mprnet_jax.config import DataConfig
from mprnet_jax.data import degradations, sample
from mprnet_jax.data.augment import RandomPatch, center_crop
from mprnet_jax.data.benchmarks import PREPARED, open_folder
from mprnet_jax.data.pairs import Cached, Example, cache_budget
from mprnet_jax.errors import UserError

SAMPLES = {
    "sample_rain": degradations.add_rain,
    "sample_blur": degradations.add_blur,
    "sample_noise": degradations.add_noise,
}


def training_source(
    config: DataConfig,
) -> tuple[Sequence[Example], degradations.Degradation | None]:
    """The training examples that a config names, and what degrades them if they are clean."""
    if degrade := SAMPLES.get(config.source):
        return sample.Photos(sample.TRAINING_PHOTOS), degrade
    pairs = _pairs(config, config.train, "train")
    return Cached(pairs, cache_budget(config.num_workers)), None


def validation_source(config: DataConfig) -> Sequence[Example]:
    """The held-out pairs that a config names; has `.names`."""
    if degrade := SAMPLES.get(config.source):
        return sample.DegradedPhotos(sample.HELD_OUT_PHOTOS, degrade)
    return _pairs(config, config.validation, "test")


def _pairs(config: DataConfig, name: str, split: str) -> Sequence[Example]:
    """The pairs of a folder, or of a split of a prepared set."""
    if config.source == "prepared":
        from mprnet_jax.data.prepared import Prepared  # TFDS takes its time to import

        return Prepared(Path(config.root) / PREPARED / name, split)
    return open_folder(_folder(config, name))


def _folder(config: DataConfig, name: str) -> Path:
    folder = Path(config.root) / name
    if not folder.is_dir():
        raise UserError(
            f"data.root={config.root!r} has no folder {name}: put the pictures of "
            f"{config.published} into {folder}/input and {folder}/target, point elsewhere with "
            "--config.data.root=DIR, or add :sample to the config's name to train without data"
        )
    return folder


class TrainingBatches(Iterator[Example]):
    """An endless stream of batches of random patches, this host's share of each.

    Batch number i is a function of the seed and i alone: whatever the number of threads, workers or
    hosts, the same examples meet in it, and a stream can start at any i without replaying others.
    """

    def __init__(
        self,
        source: Sequence[Example],
        degrade: degradations.Degradation | None = None,
        *,
        batch_size: int,
        patch_size: int,
        saturation: bool = False,
        seed: int,
        start: int = 0,
        num_workers: int = 0,
    ):
        hosts = jax.process_count()
        dataset = (
            grain.MapDataset.source(source)
            .seed(seed)
            .shuffle()
            .repeat()
            .random_map(RandomPatch(patch_size, degrade, saturation))[jax.process_index() :: hosts]
            .batch(batch_size // hosts, drop_remainder=True)[start:]
            .to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32))
        )
        if num_workers:
            # Grain's worker processes read absl flags, which only absl.app parses.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
        self._iterator = iter(dataset)

    def __next__(self) -> Example:
        return next(self._iterator)

    def close(self) -> None:
        """Stops threads and worker processes."""
        self._iterator.close()


def validation_batches(
    source: Sequence[Example], batch_size: int, crop: int
) -> Iterator[tuple[Example, int]]:
    """The centre crops of all pairs in order, as (batch, number of pairs in it).

    The last batch repeats its last pair, so that all have one shape.
    """
    for first in range(0, len(source), batch_size):
        indices = range(first, min(first + batch_size, len(source)))
        patches = [center_crop(source[i], crop) for i in indices]
        patches += [patches[-1]] * (batch_size - len(patches))
        yield {name: np.stack([p[name] for p in patches]) for name in patches[0]}, len(indices)
