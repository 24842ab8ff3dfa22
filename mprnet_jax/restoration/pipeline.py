"""Restores many files; decoding, restoring and encoding overlap.

Programs are planned from the files' headers. Photos that share a program are restored one after
another, in batches. A photo that fails is reported on stderr, and the others are restored.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.imageio.sheets import make_sheet, shrink
from mprnet_jax.restoration.costs import Program, Size
from mprnet_jax.restoration.folders import SHEET, Job
from mprnet_jax.restoration.restorer import Progress, Restorer, ignore
from mprnet_jax.restoration.tiles import Grid
from mprnet_jax.threads import prefetch

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 4  # which decode and encode
LONGEST_SHEET = 16_384  # pixels a side; JPEG holds four times as many
PREFETCHED = 2  # batches that are decoded early, and as many that are being encoded


class Summary(NamedTuple):
    """The number of photos by outcome."""

    restored: int
    skipped: int
    failed: int


class Pipeline:
    """Restores files with one restorer."""

    def __init__(
        self,
        restorer: Restorer,
        *,
        quality: int = photos.QUALITY,
        max_pixels: int = photos.MAX_PIXELS,
        overwrite: bool = False,
        compare: bool = False,
    ):
        """Stores the options.

        Args:
            restorer: restores pixels.
            quality: from 1 to 100, of JPEG and WebP.
            max_pixels: photos with more are refused.
            overwrite: whether to replace results that exist.
            compare: whether to write a sheet with each photo before and after.
        """
        self._restorer = restorer
        self._quality, self._max_pixels = quality, max_pixels
        self._overwrite, self._compare = overwrite, compare

    def run(self, jobs: Sequence[Job]) -> Summary:
        """Restores all files that can be restored."""
        todo = [job for job in jobs if self._overwrite or not job.target.exists()]
        self._failures = 0
        self._logged: set[Grid] = set()
        with (
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=len(todo), unit="photo", disable=None) as self._bar,
        ):
            decoded = prefetch(pool, self._decode, self._batches(todo), PREFETCHED)
            for _ in prefetch(pool, self._encode, map(self._restore, decoded), PREFETCHED):
                pass
        return Summary(len(todo) - self._failures, len(jobs) - len(todo), self._failures)

    def _batches(self, jobs: list[Job]) -> Iterator[list[Job]]:
        """Yields jobs whose photos share a program, in the order of the plan."""

        def measure(job: Job) -> tuple[Size, Job]:
            return photos.size_of(job.source, self._max_pixels), job

        measured = list(self._each(measure, jobs))
        plan = self._restorer.plan([size for size, _ in measured])
        if len(plan.counts) > 1:
            self._bar.write(str(plan))
        by_program: dict[Program, list[Job]] = {program: [] for program in plan.order}
        for size, job in sorted(measured):
            by_program.setdefault(self._restorer.program_for(size), []).append(job)
        for group in by_program.values():
            for start in range(0, len(group), self._restorer.batch_size):
                yield group[start : start + self._restorer.batch_size]

    def _decode(self, batch: list[Job]) -> list[tuple[Job, Photo]]:
        def read(job: Job) -> tuple[Job, Photo]:
            photo = photos.read(job.source, self._max_pixels)
            photos.check_format_supports(job.target, photo)  # before it is restored
            return job, photo

        return list(self._each(read, batch))

    def _restore(self, batch: list[tuple[Job, Photo]]) -> list[tuple[Job, Photo, Photo]]:
        if not batch:
            return []
        jobs, read = zip(*batch)
        try:
            self._log_tiles(read[0])
            return list(zip(jobs, read, restore_photos(self._restorer, read)))
        except UserError as error:
            if len(batch) > 1:  # one of them may be the reason
                return [done for item in batch for done in self._restore([item])]
            self._fail(f"{jobs[0].source}: {error}")
            return []

    def _encode(self, batch: list[tuple[Job, Photo, Photo]]) -> None:
        def write(item: tuple[Job, Photo, Photo]) -> None:
            job, photo, restored = item
            photos.write(job.target, restored, self._quality)
            if self._compare:
                sheet = make_sheet([[("before", to_rgb8(photo)), ("after", to_rgb8(restored))]])
                path = job.target.with_name(f"{job.target.name}{SHEET}")
                photos.write(path, Photo(shrink(sheet, LONGEST_SHEET)))
            self._bar.update()

        for _ in self._each(write, batch):
            pass

    def _each(self, step: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yields the step's result for each item; items that fail are reported and left out."""
        for item in items:
            try:
                yield step(item)
            except UserError as error:
                self._fail(str(error))

    def _fail(self, message: str) -> None:
        with self._bar.get_lock():
            self._failures += 1
        self._bar.write(message, file=sys.stderr)
        self._bar.update()

    def _log_tiles(self, photo: Photo) -> None:
        """Shows the tiles of photos of this size, and prints them once if there are several."""
        grid = self._restorer.grid_of(photo.pixels)
        size = f"{grid.columns.length}x{grid.rows.length}"
        if len(grid.places) == 1:
            self._bar.set_postfix_str(f"{size}, whole")
            return
        tiles = f"{size}, {len(grid.places)} tiles of {grid.columns.tile}x{grid.rows.tile}"
        self._bar.set_postfix_str(tiles)
        if grid not in self._logged:
            self._logged.add(grid)
            self._bar.write(tiles)


def restore_photos(
    restorer: Restorer, photos: Sequence[Photo], progress: Progress = ignore
) -> list[Photo]:
    """Restores the colours of photos; grey is restored as RGB and averaged, alpha is kept."""
    restored = restorer.batch([to_rgb(photo.pixels) for photo in photos], progress)
    return [
        photo._replace(pixels=replace_colours(photo.pixels, rgb))
        for photo, rgb in zip(photos, restored)
    ]


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Converts [H, W, C] to RGB [H, W, 3]: drops alpha and repeats grey."""
    colours = pixels[..., : -1 if pixels.shape[2] in (2, 4) else None]
    return np.broadcast_to(colours, (*pixels.shape[:2], 3))


def replace_colours(pixels: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Replaces the colours of [H, W, C] by RGB [H, W, 3], averaged if C is grey; keeps alpha."""
    count = 3 if pixels.shape[2] >= 3 else 1
    if count == 1:
        rgb = np.rint(rgb.mean(axis=2, keepdims=True)).astype(rgb.dtype)
    return np.concatenate([rgb, pixels[..., count:]], axis=2)


def to_rgb8(photo: Photo) -> np.ndarray:
    """Converts a photo to uint8 RGB [H, W, 3], for sheets."""
    rgb = to_rgb(photo.pixels)
    return rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)
