"""Turns sources of examples into batches: grain for training, plain iteration for validation.

Batches are dicts of arrays [B, H, W, 3] with the source's dtype: "degraded" and "target". Training
batches also have "unreadable", str [B]: the error message of the example that was replaced,
truncated at 500 characters, or "" if the example was read.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import logging

from mprnet_jax import paths
from mprnet_jax.compat.grain import prepare_for_workers
from mprnet_jax.config import DataConfig
from mprnet_jax.data import degradations, sample
from mprnet_jax.data.augment import RandomPatch, center_crop
from mprnet_jax.data.mixes import Mix, training_shares
from mprnet_jax.data.opening import open_folder, open_prepared
from mprnet_jax.data.pairs import Cached, DegradedPhotos, Example, PhotoFolder, Source, dtype_of
from mprnet_jax.devices import memory
from mprnet_jax.errors import UserError
from mprnet_jax.threads import parallel_map_or_error

SAMPLE_DEGRADATIONS: dict[str, degradations.Degradation] = {
    "sample_rain": degradations.add_rain,
    "sample_blur": degradations.add_blur,
    "sample_noise": degradations.add_noise,
}
# The dtype of error messages, which are arrays as worker processes share nothing else.
ERROR_MESSAGE_DTYPE = np.dtype("<U500")
Batch = Example  # the images of several examples, stacked


def training_source(config: DataConfig) -> tuple[Source | Mix, degradations.Degradation | None]:
    """Opens the training set of a config, or the mix of several.

    Returns:
        The source, and the degradation of its patches, or None if it has pairs.
    """
    if degrade := SAMPLE_DEGRADATIONS.get(config.source):
        return sample.Photos(sample.TRAINING_PHOTOS), degrade
    degrade = degradations.DEGRADATIONS[config.degradation] if config.source == "photos" else None
    shares = training_shares(config)
    min_available_bytes = memory.available_host_bytes() // 2
    sets = {name: Cached(_training_set(config, name), min_available_bytes) for name in shares}
    source = Mix(sets, shares) if len(sets) > 1 else sets.popitem()[1]
    return source, degrade


def validation_source(config: DataConfig) -> Source:
    """Opens the validation set of a config."""
    photos: Source
    if config.source in SAMPLE_DEGRADATIONS:
        photos = sample.Photos(sample.HELD_OUT_PHOTOS)
        degrade = SAMPLE_DEGRADATIONS[config.source]
    elif config.source == "photos":
        photos = PhotoFolder(_folder(config, config.validation))
        degrade = degradations.DEGRADATIONS[config.degradation]
    else:
        return _pairs(config, config.validation, "test")
    # Degraded once, not at each validation.
    return Cached(DegradedPhotos(photos, degrade), memory.available_host_bytes() // 2)


def _training_set(config: DataConfig, name: str) -> Source:
    if config.source == "photos":
        return PhotoFolder(_folder(config, name))
    return _pairs(config, name, "train")


def _pairs(config: DataConfig, name: str, split: str) -> Source:
    """Opens the folder of this name, or the split of the prepared set of this name."""
    if config.source == "prepared":
        return open_prepared(paths.anywhere(config.root), name, split)
    return open_folder(_folder(config, name))


def _folder(config: DataConfig, name: str) -> Path:
    """Returns the folder of this name below the data root; raises UserError if it is not there."""
    folder = paths.absolute(config.root, name)
    if not folder.is_dir():
        sets = f" ({config.published})" if config.published else ""
        inside = "" if config.source == "photos" else "/{input,target}"
        train = ", ".join(f"{part}{inside}" for part in training_shares(config))
        raise UserError(
            f"data.root={config.root!r} has no folder {name}: it must hold {train} "
            f"to train on and {config.validation}{inside} to validate on{sets}; point elsewhere "
            "with --config.data.root=DIR, or add :sample to the config's name to train without data"
        )
    return folder


class TrainingBatches(Iterator[Batch]):
    """An endless stream of batches of random patches, or of one host's share of each batch.

    Batch i depends on the arguments and i alone: it holds the same examples for any number of
    threads, workers and hosts, and a stream can start at any i without reading earlier batches.

    The next readable example of the same set replaces one that cannot be read; "unreadable" in the
    batch then holds its error message.
    """

    def __init__(
        self,
        source: Source | Mix,
        degrade: degradations.Degradation | None = None,
        *,
        batch_size: int,
        patch_size: int,
        saturation: bool = False,
        seed: int,
        start: int = 0,
        num_workers: int = 0,
        local_indices: range | None = None,
    ):
        """Starts reading, and waits for the first batch.

        Args:
            source: the examples, or a mix of several sets.
            degrade: makes "degraded" from "target", for sources of clean photos.
            batch_size: examples in a batch, of all hosts together.
            patch_size: side of the patches in pixels.
            saturation: whether to scale the saturation of some examples.
            seed: seed of the order of examples and of the augmentation. The n-th set of a mix (n
                from 0) uses seed + n.
            start: index of the first batch.
            num_workers: number of processes that read; if 0, threads of this process read.
            local_indices: positions in each batch of the examples that this host reads; by default
                all.

        Raises:
            UserError: if no example of a set can be read; `next` raises it, too, for sets without
                an example in the first batch.
        """
        if local_indices is None:
            local_indices = range(batch_size)
        self._mix = source if isinstance(source, Mix) else Mix.of_one(source)
        self._batch_size = batch_size
        sets = self._mix.sets
        # Indices in the order in which the examples below are drawn: same seed, same length.
        self._orders = [_shuffled(range(len(each)), seed + n) for n, each in enumerate(sets)]
        examples = [_shuffled(ReplaceUnreadable(each), seed + n) for n, each in enumerate(sets)]
        patch = ExtractPatch(RandomPatch(patch_size, degrade, saturation))
        patches = grain.MapDataset.select_from_datasets(
            [example.random_map(patch) for example in examples], self._mix.turns
        )
        dataset = (
            HostShare(patches, batch_size, local_indices)
            .batch(len(local_indices), drop_remainder=True)[start:]
            .to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=16))
        )
        if num_workers:
            prepare_for_workers()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=num_workers),
                worker_init_fn=exit_when_parent_exits,
            )
        # Workers start with the first batch and inherit the blocked signals, so that only this
        # process gets them.
        with blocked(signal.SIGTERM, signal.SIGINT), contextlib.ExitStack() as on_error:
            self._iterator = iter(dataset)
            on_error.callback(self._iterator.close)
            self._first = [next(self._iterator)]
            on_error.pop_all()

    def __next__(self) -> Batch:
        return self._first.pop() if self._first else next(self._iterator)

    def example_names(self, batch_index: int) -> list[str]:
        """Returns the names of the examples drawn for batch `batch_index`, over all hosts.

        In a mix, each name follows that of its set: SET/NAME. An example that could not be read
        has its own name, not that of its replacement.
        """
        positions = range(batch_index * self._batch_size, (batch_index + 1) * self._batch_size)
        drawn = [self._mix.turns[position] for position in positions]
        return [self._mix.example_name(n, self._orders[n][index]) for n, index in drawn]

    def close(self) -> None:
        """Stops threads and worker processes."""
        self._iterator.close()


def _shuffled(source: Any, seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


class ReplaceUnreadable:
    """Replaces each example of a source that cannot be read by the next one that can.

    Its items are (error message of the example that was replaced, else ""; example).
    """

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[str, Example]:
        try:
            return "", self._source[index]
        except UserError as error:
            for other in range(index + 1, index + len(self)):
                with contextlib.suppress(UserError):
                    return str(error), self._source[other % len(self)]
            raise


class ExtractPatch(grain.transforms.RandomMap):
    """Extracts a random patch from each item of `ReplaceUnreadable`."""

    def __init__(self, patch: RandomPatch):
        self._patch = patch

    def random_map(self, item: tuple[str, Example], rng: np.random.Generator) -> Example:
        """Returns the patch, and the error message as "unreadable"."""
        message, example = item
        return self._patch(example, rng) | {"unreadable": np.array(message, ERROR_MESSAGE_DTYPE)}


class HostShare(grain.MapDataset):
    """The examples at `local_indices` of every `batch_size` examples of another dataset."""

    def __init__(self, examples: grain.MapDataset, batch_size: int, local_indices: range):
        super().__init__(examples)
        self._examples, self._batch_size, self._local_indices = examples, batch_size, local_indices

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._local_indices)

    def __getitem__(self, index: int | slice) -> Example | grain.MapDataset:
        if isinstance(index, slice):
            return self.slice(index)
        batch, position = divmod(index, len(self._local_indices))
        return self._examples[batch * self._batch_size + self._local_indices[position]]


@contextlib.contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Blocks signals in this thread; processes started inside inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_when_parent_exits(*_: int) -> None:
    """Makes a worker process exit when its parent does, even if the parent is killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # this is a worker
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def validation_batches(
    source: Source, batch_size: int, crop: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields the centre crops of all pairs in order.

    A pair that cannot be read is black and logged as a warning. Black pairs pad the last batch.

    Args:
        source: the pairs.
        batch_size: pairs in a batch.
        crop: side of the crops in pixels.

    Yields:
        The batch, and whether each of its pairs was read: bool [n], n <= B. Rows from n on are
        padding.
    """

    def cropped(index: int) -> Example:
        pair = center_crop(source[index], crop)
        return {role: image.copy() for role, image in pair.items()}  # frees the whole images

    pairs = parallel_map_or_error(cropped, range(len(source)))
    for first in range(0, len(source), batch_size):
        batch = {
            role: np.zeros((batch_size, crop, crop, 3), dtype_of(source))
            for role in ("degraded", "target")
        }
        readable = np.ones(min(batch_size, len(source) - first), bool)
        for position in range(len(readable)):
            pair = next(pairs)
            if isinstance(pair, UserError):
                logging.warning("%s; validation leaves it out", pair)
                readable[position] = False
                continue
            for role, image in pair.items():
                batch[role][position] = image
        yield batch, readable
