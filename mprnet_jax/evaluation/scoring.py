"""Scores a restorer on a set of pairs: reading, restoring and scoring overlap.

Threads read and score; the calling thread keeps the device busy.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mprnet_jax.data.datasets import find_folder
from mprnet_jax.data.pairs import Example, decode, list_pictures
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation.protocols import Protocol, Scores
from mprnet_jax.imageio.sheets import to_uint8
from mprnet_jax.threads import THREADS, map_ahead, parallel_map_or_error

# From an example to its restored image, float32 [H, W, 3], white at 1, neither clipped nor rounded.
Restore = Callable[[Example], np.ndarray]
# LPIPS of two uint8 images.
Lpips = Callable[[np.ndarray, np.ndarray], float]

WAITING = 2 * THREADS  # restored images that may wait to be scored


@dataclass
class ImageScores:
    """The scores of one image."""

    name: str
    psnr: float  # dB
    ssim: float
    lpips: float | None = None


@dataclass
class SetScores:
    """The scores of a set, and what was left out of it."""

    images: list[ImageScores] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # a line for each image not scored
    seconds: float | None = None  # to restore an image: the median, compiling left aside

    @property
    def mean(self) -> Scores | None:
        """Means over the images, if there are any."""
        if not self.images:
            return None
        columns = zip(*((image.psnr, image.ssim) for image in self.images))
        return Scores(*(float(np.mean(column)) for column in columns))

    @property
    def lpips(self) -> float | None:
        """Mean LPIPS, if there is any."""
        values = [image.lpips for image in self.images]
        return float(np.mean(values)) if values and None not in values else None


class WithRestored(Sequence[Example]):
    """A set with pictures that somebody else restored, as "restored": uint8, of the same names."""

    def __init__(self, source: Sequence[Example], folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: is no folder of restored pictures")
        self.names = source.names
        self._source = source
        self._folder = folder
        self._pictures = list_pictures(folder)
        if not self._pictures.keys() & set(self.names):
            raise UserError(
                f"{folder}: holds no picture named like one of the set ({self.names[0]}, ...)"
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        if name not in self._pictures:
            raise UserError(f"{self._folder / name}: is missing, with any of the usual extensions")
        example, restored = self._source[index], decode(self._pictures[name])
        if restored.shape != example["degraded"].shape:
            raise UserError(
                f"{self._pictures[name]}: is {restored.shape[1]}x{restored.shape[0]}, the picture "
                f"to restore {example['degraded'].shape[1]}x{example['degraded'].shape[0]}"
            )
        return {**example, "restored": restored}


def restored_folder(root: Path, title: str, alone: bool) -> Path:
    """Where the restored pictures of a set lie: in a folder of its name, or `root` if `alone`."""
    return find_folder(root, title) or (root if alone else root / title)


def take_restored(example: Example) -> np.ndarray:
    """The `Restore` of sets that hold "restored" already."""
    return np.float32(example["restored"] / 255)


def score_set(
    source: Sequence[Example],
    protocol: Protocol,
    restore: Restore,
    *,
    title: str,
    lpips: Lpips | None = None,
) -> SetScores:
    """Restores and scores every example of a set, with a progress bar.

    Examples that cannot be read, restored or scored are named in `left_out`.
    """
    scores = SetScores()

    def score(restored: tuple[str, Example, np.ndarray]) -> ImageScores | str:
        name, example, image = restored
        try:
            perceptual = lpips(to_uint8(image), example["target"]) if lpips else None
            return ImageScores(name, *protocol.score(image, example["target"]), perceptual)
        except (UserError, ValueError, RuntimeError) as error:  # the last from LPIPS
            return f"{title} {name}: {error}"

    restored = restored_in_turn(source, restore, title, scores)
    restored = (item for item in restored if item[2] is not None)
    with ThreadPoolExecutor(THREADS) as scorers:
        for result in map_ahead(scorers, score, restored, WAITING):
            (scores.left_out if isinstance(result, str) else scores.images).append(result)
    return scores


def restored_in_turn(
    source: Sequence[Example], restore: Restore, title: str, scores: SetScores
) -> Iterator[tuple[str, Example, np.ndarray | None]]:
    """Restores all examples of a set in order, with a progress bar: (name, example, image).

    One that cannot be read or restored, or not to finite numbers, comes with None and is named in
    `scores.left_out`; at the end `scores.seconds` is set.
    """
    seconds = defaultdict(list)  # by size of the image
    for name, example in read_ahead(source, title):
        image = None
        try:
            if isinstance(example, UserError):
                raise example
            start = time.perf_counter()
            restored = restore(example)
            seconds[restored.shape].append(time.perf_counter() - start)
            if not np.isfinite(restored).all():
                raise UserError("the restored image has values that are not finite")
            image = restored
        except UserError as error:
            scores.left_out.append(f"{title} {name}: {error}")
        yield name, example, image
    counted = [each for times in seconds.values() for each in times[1:]]  # the first may compile
    scores.seconds = float(np.median(counted)) if counted else None


def read_ahead(source: Sequence[Example], title: str) -> Iterator[tuple[str, Example | UserError]]:
    """All examples in order with their names, read by threads; what cannot be read as its error."""
    examples = parallel_map_or_error(source.__getitem__, len(source))
    examples = tqdm(examples, desc=title, total=len(source), unit="image")
    yield from zip(source.names, examples)
