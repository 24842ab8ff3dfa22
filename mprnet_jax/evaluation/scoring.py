"""Scores a restorer on a set of pairs; reading, restoring and scoring overlap.

Threads read and score, the calling thread restores.
"""

import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mprnet_jax.data.datasets import find_folder
from mprnet_jax.data.pairing import list_pictures
from mprnet_jax.data.pairs import Example, Source
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.evaluation.protocols import Protocol, Scores
from mprnet_jax.imageio.pixels import to_uint8, white_of
from mprnet_jax.imageio.rgb import decode
from mprnet_jax.threads import THREADS, parallel_map_or_error, prefetch

# Restores an example to float32 [H, W, 3] with white at 1, not clipped or rounded further.
RestoreFn = Callable[[Example], np.ndarray]
# Computes LPIPS of two uint8 images.
LpipsFn = Callable[[np.ndarray, np.ndarray], float]

MAX_PENDING = 2 * THREADS  # restored images that may wait for scoring


@dataclass
class ImageScores:
    """The scores of one image."""

    name: str
    psnr: float  # dB
    ssim: float
    lpips: float | None = None


@dataclass
class SetScores:
    """The scores of a set, and the images that were left out."""

    images: list[ImageScores] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # a line for each image not scored
    # Median time to restore an image, without the first of each shape, which may compile; None if
    # there are no others.
    seconds: float | None = None

    @property
    def mean(self) -> Scores | None:
        """Mean scores of the images, if there are any."""
        if not self.images:
            return None
        columns = zip(*((image.psnr, image.ssim) for image in self.images))
        return Scores(*(float(np.mean(column)) for column in columns))

    @property
    def lpips(self) -> float | None:
        """Mean LPIPS, None unless all images have it."""
        values = [image.lpips for image in self.images if image.lpips is not None]
        return float(np.mean(values)) if values and len(values) == len(self.images) else None


class WithRestored:
    """Adds "restored" to each example of a source: the picture of the same name in a folder."""

    def __init__(self, source: Source, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: is not a folder; give that of the restored pictures")
        self.names = source.names
        self._source = source
        self._folder = folder
        self._pictures = list_pictures(folder)
        if not self._pictures.keys() & {unicodedata.normalize("NFC", name) for name in self.names}:
            raise UserError(
                f"{folder}: has no picture with a name of the set ({self.names[0]}, ...)"
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        name = unicodedata.normalize("NFC", self.names[index])
        if name not in self._pictures:
            raise UserError(f"{self._folder / name}: is missing; no picture file has this name")
        example, restored = self._source[index], decode(self._pictures[name])
        if restored.shape != example["degraded"].shape:
            raise UserError(
                f"{self._pictures[name]}: is {restored.shape[1]}x{restored.shape[0]}, the picture "
                f"to restore {example['degraded'].shape[1]}x{example['degraded'].shape[0]}"
            )
        return {**example, "restored": restored}


def restored_folder(root: Path, title: str, only_dataset: bool) -> Path:
    """Returns the folder of a set's restored pictures.

    That is `root/title`, or `root` if it does not exist and the set is the only one.
    """
    return find_folder(root, title) or (root if only_dataset else root / title)


def take_restored(example: Example) -> np.ndarray:
    """The `RestoreFn` of sets that have "restored" already."""
    restored = example["restored"]
    return (restored / white_of(restored.dtype)).astype(np.float32)


def score_set(
    source: Source,
    protocol: Protocol,
    restore_fn: RestoreFn,
    *,
    title: str,
    lpips_fn: LpipsFn | None = None,
) -> SetScores:
    """Restores and scores every example of a set, with a progress bar.

    Args:
        source: the examples.
        protocol: how to score; must have a `score`.
        restore_fn: restores an example.
        title: title of the set, for messages.
        lpips_fn: computes the LPIPS that is added to the scores.

    Returns:
        The scores; examples that cannot be read, restored or scored are named in `left_out`.
    """
    assert protocol.score is not None
    score_fn, scores = protocol.score, SetScores()

    def score(item: tuple[str, Example, np.ndarray]) -> ImageScores | str:
        name, example, image = item
        target = example["target"]
        try:
            if image.shape != target.shape:
                raise UserError(
                    f"the restored image is {image.shape[1]}x{image.shape[0]}, its target "
                    f"{target.shape[1]}x{target.shape[0]}"
                )
            perceptual = _lpips_of(lpips_fn, image, target) if lpips_fn else None
            return ImageScores(name, *score_fn(image, target), perceptual)
        except UserError as error:
            return f"{title} {name}: {error}"

    items = (
        (name, example, image)
        for name, example, image in restore_all(source, restore_fn, title, scores)
        if image is not None
    )
    with ThreadPoolExecutor(THREADS) as pool:
        for result in prefetch(pool, score, items, MAX_PENDING):
            if isinstance(result, str):
                scores.left_out.append(result)
            else:
                scores.images.append(result)
    return scores


def _lpips_of(lpips_fn: LpipsFn, image: np.ndarray, target: np.ndarray) -> float:
    """Computes LPIPS; raises UserError where it fails, as on images too small for its network."""
    try:
        return lpips_fn(to_uint8(image), to_uint8(target))
    except RuntimeError as error:  # PyTorch's
        raise UserError(f"LPIPS fails ({one_line(error)})") from error


def restore_all(
    source: Source, restore_fn: RestoreFn, title: str, scores: SetScores
) -> Iterator[tuple[str, Example, np.ndarray | None]]:
    """Restores all examples of a set in order, with a progress bar.

    Args:
        source: the examples.
        restore_fn: restores an example.
        title: title of the set, for messages.
        scores: gets a line in `left_out` for each example that cannot be read or restored, and
            `seconds` at the end.

    Yields:
        Name, example and restored image. For an image that is left out, the restored image is None,
        and the example is empty if it cannot be read.
    """
    seconds = defaultdict(list)  # by the image's shape
    for name, example in read_all(source, title):
        image = None
        try:
            if isinstance(example, UserError):
                raise example
            start = time.perf_counter()
            restored = restore_fn(example)
            seconds[restored.shape].append(time.perf_counter() - start)
            if not np.isfinite(restored).all():
                raise UserError("the restored image has values that are not finite")
            image = restored
        except UserError as error:
            scores.left_out.append(f"{title} {name}: {error}")
        yield name, {} if isinstance(example, UserError) else example, image
    measured = [each for times in seconds.values() for each in times[1:]]  # the first may compile
    scores.seconds = float(np.median(measured)) if measured else None


def read_all(source: Source, title: str) -> Iterator[tuple[str, Example | UserError]]:
    """Yields the name and the example, or the error on reading it, of all examples in order."""
    examples: Iterable[Example | UserError] = parallel_map_or_error(
        source.__getitem__, range(len(source))
    )
    examples = tqdm(examples, desc=title, total=len(source), unit="image")
    # `zip` must advance the examples first: a prepared set stores the name of each example that is
    # read, and would read an example again if it were asked for its name before.
    for example, name in zip(examples, source.names):
        yield name, example
