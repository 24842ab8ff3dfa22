"""From a source of examples to batches: grain for training, plain iteration for validation.

Batches are dicts of uint8 [B, H, W, 3]: "degraded" and "target".
"""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import numpy as np
from absl import flags, logging

from mprnet_jax.config import DataConfig
from mprnet_jax.data import degradations, sample
from mprnet_jax.data.augment import RandomPatch, center_crop
from mprnet_jax.data.datasets import PREPARED, open_folder
from mprnet_jax.data.pairs import Cached, Example
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.threads import parallel_map_or_error

SAMPLES = {
    "sample_rain": degradations.add_rain,
    "sample_blur": degradations.add_blur,
    "sample_noise": degradations.add_noise,
}


def training_source(
    config: DataConfig,
) -> tuple[Sequence[Example], degradations.Degradation | None]:
    """The training examples that a config names, with `.names`, and what degrades clean ones."""
    if degrade := SAMPLES.get(config.source):
        return sample.Photos(sample.TRAINING_PHOTOS), degrade
    pairs = _pairs(config, config.train, "train")
    return Cached(pairs, floor=memory.available_host_bytes() // 2), None


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
        sets = f" ({config.published})" if config.published else ""
        raise UserError(
            f"data.root={config.root!r} has no folder {name}: it must hold "
            f"{config.train}/{{input,target}} to train on and {config.validation}/{{input,target}} "
            f"to validate on{sets}; point elsewhere with --config.data.root=DIR, or add :sample to "
            "the config's name to train without data"
        )
    return folder


class TrainingBatches(Iterator[Example]):
    """An endless stream of batches of random patches, or of a share of each.

    Batch number i is a function of the seed and i alone: whatever the number of threads, workers or
    hosts, the same examples meet in it, and a stream can start at any i without replaying others.

    An example that cannot be read is replaced by the next one of the source that can; "unreadable"
    in a batch, int [B], has the numbers of such examples in the source, and -1 for all others.
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
        share: range | None = None,
    ):
        """`share`: which images of each batch to load; by default all."""
        share = share or range(batch_size)
        self._names, self._batch_size = source.names, batch_size
        self._order = _shuffled(range(len(source)), seed)
        patches = _shuffled(Readable(source), seed).random_map(
            Patches(RandomPatch(patch_size, degrade, saturation))
        )
        dataset = (
            Share(patches, batch_size, share)
            .batch(len(share), drop_remainder=True)[start:]
            .to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32))
        )
        if num_workers:
            # Grain's worker processes read absl flags, which only absl.app parses.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=num_workers),
                worker_init_fn=end_with_parent,
            )
        # Workers start with the first batch, and inherit that they leave these signals to us. Their
        # resource tracker comes first: whichever thread starts it gets these signals again.
        multiprocessing.resource_tracker.ensure_running()
        with blocked(signal.SIGTERM, signal.SIGINT):
            self._iterator = iter(dataset)
            self._first = [next(self._iterator)]

    def __next__(self) -> Example:
        return self._first.pop() if self._first else next(self._iterator)

    def names(self, batch: int) -> list[str]:
        """The names of the examples that batch number `batch` consists of, over all hosts."""
        places = range(batch * self._batch_size, (batch + 1) * self._batch_size)
        return [self._names[self._order[place]] for place in places]

    def close(self) -> None:
        """Stops threads and worker processes."""
        self._iterator.close()


def _shuffled(source: Sequence, seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


class Readable(Sequence[tuple[int, Example]]):
    """A source whose examples that cannot be read are replaced by the next one that can.

    Its items are (the number of the example that was replaced, or -1; example).
    """

    def __init__(self, source: Sequence[Example]):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[int, Example]:
        for offset in range(len(self)):
            with contextlib.suppress(UserError):
                return (index if offset else -1), self._source[(index + offset) % len(self)]
        return -1, self._source[index]  # tells why, for no other can be read either


class Patches(grain.transforms.RandomMap):
    """Random patches of the items of `Readable`."""

    def __init__(self, patch: RandomPatch):
        self._patch = patch

    def random_map(self, item: tuple[int, Example], rng: np.random.Generator) -> Example:
        """The patch, and "unreadable": the index of the item that it replaces, or -1."""
        replaced, example = item
        return self._patch(example, rng) | {"unreadable": np.int32(replaced)}


class Share(grain.MapDataset):
    """Of every `batch_size` examples of another dataset those in the range `share`."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, share: range):
        super().__init__(parent)
        self._batch_size, self._share = batch_size, share

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._share)

    def __getitem__(self, index: int | slice) -> Example | grain.MapDataset:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, len(self._share))
        return self._parent[batch * self._batch_size + self._share[place]]


@contextlib.contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Holds signals back; processes started meanwhile never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_: int) -> None:
    """Makes a worker process end when the process that started it does, however it ends."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def validation_batches(
    source: Sequence[Example], batch_size: int, crop: int
) -> Iterator[tuple[Example, np.ndarray]]:
    """The centre crops of all pairs in order, as (batch, which of its pairs could be read).

    A pair that cannot be read is black, and a warning tells of it. Black also fills the last batch,
    so that all have one shape; the second value, bool, is as long as there are pairs.
    """

    def cropped(number: int) -> Example:
        pair = center_crop(source[number], crop)
        return {role: image.copy() for role, image in pair.items()}  # lets go of the whole

    pairs = parallel_map_or_error(cropped, len(source))
    for first in range(0, len(source), batch_size):
        batch = {
            role: np.zeros((batch_size, crop, crop, 3), np.uint8) for role in ("degraded", "target")
        }
        readable = np.ones(min(batch_size, len(source) - first), bool)
        for place in range(len(readable)):
            pair = next(pairs)
            if isinstance(pair, UserError):
                logging.warning("%s; the validation goes without it", pair)
                readable[place] = False
                continue
            for role, image in pair.items():
                batch[role][place] = image
        yield batch, readable
