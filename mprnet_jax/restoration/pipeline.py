"""Restores many files; decoding, restoring and encoding overlap.

Programs are planned from the files' headers. Photos that share a program are restored one after
another, in batches. A photo that fails is reported on stderr, and the others are restored.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from mprnet_jax import paths
from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.imageio.sheets import make_sheet, shrink
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.folders import SHEET, Job
from mprnet_jax.restoration.restorer import Progress, Restorer, no_progress
from mprnet_jax.restoration.sizes import Size
from mprnet_jax.restoration.tiles import Grid
from mprnet_jax.threads import prefetch

Item = TypeVar("Item")
Result = TypeVar("Result")

CODEC_THREADS = 4  # they decode and encode
MAX_SHEET_SIDE = 16_384  # pixels; a quarter of what JPEG allows
PREFETCHED = 2  # batches that are decoded ahead, and as many that are being encoded


class Summary(NamedTuple):
    """The number of photos by outcome."""

    restored: int
    skipped: int
    failed: int
    failed_sheets: int = 0  # of restored photos


class Report:
    """The progress bar of a run, with the failures that were printed."""

    def __init__(self, bar: tqdm):
        """Starts without failures."""
        self.bar = bar
        self.failed = 0  # photos
        self.failed_sheets = 0
        self._printed: set[Grid] = set()

    def fail(self, message: str) -> None:
        """Prints why a photo failed."""
        with self.bar.get_lock():
            self.failed += 1
        self.bar.write(paths.shown(message), file=sys.stderr)
        self.bar.update()

    def fail_sheet(self, message: str) -> None:
        """Prints why the sheet of a restored photo failed."""
        with self.bar.get_lock():
            self.failed_sheets += 1
        self.bar.write(paths.shown(message), file=sys.stderr)

    def show_tiles(self, grid: Grid) -> None:
        """Shows the tiles of photos of one size; prints them once if there are several."""
        size = f"{grid.columns.length}x{grid.rows.length}"
        if len(grid.places) == 1:
            self.bar.set_postfix_str(f"{size}, whole")
            return
        tiles = f"{size}, {len(grid.places)} tiles of {grid.columns.tile}x{grid.rows.tile}"
        self.bar.set_postfix_str(tiles)
        if grid not in self._printed:
            self._printed.add(grid)
            self.bar.write(tiles)

    def without_failures(
        self, step: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yields the step's result for each item; items that fail are printed and left out."""
        for item in items:
            try:
                yield step(item)
            except UserError as error:
                self.fail(str(error))


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
            max_pixels: photos with more pixels are refused.
            overwrite: whether to replace results that exist.
            compare: whether to write a sheet with each photo before and after.
        """
        self._restorer = restorer
        self._quality, self._max_pixels = quality, max_pixels
        self._overwrite, self._compare = overwrite, compare

    def run(self, jobs: Sequence[Job]) -> Summary:
        """Restores all files that can be restored; prints why others failed."""
        todo = [job for job in jobs if self._overwrite or not job.target.exists()]
        with (
            ThreadPoolExecutor(CODEC_THREADS) as pool,
            tqdm(total=len(todo), unit="photo", disable=None) as bar,
        ):
            report = Report(bar)
            decode, restore, encode = (
                functools.partial(step, report)
                for step in (self._decode, self._restore, self._encode)
            )
            decoded = prefetch(pool, decode, self._batches(report, todo), PREFETCHED)
            for _ in prefetch(pool, encode, map(restore, decoded), PREFETCHED):
                pass
        return Summary(
            len(todo) - report.failed, len(jobs) - len(todo), report.failed, report.failed_sheets
        )

    def _batches(self, report: Report, jobs: list[Job]) -> Iterator[list[Job]]:
        """Yields jobs whose photos share a program, in the order of the plan."""

        def measure(job: Job) -> tuple[Size, Job]:
            return photos.size_of(job.source, self._max_pixels), job

        measured = list(report.without_failures(measure, jobs))
        plan = self._restorer.plan([size for size, _ in measured])
        if len(plan.counts) > 1:
            report.bar.write(str(plan))
        by_program: dict[ProgramShape, list[Job]] = {program: [] for program in plan.order}
        for size, job in sorted(measured):
            by_program.setdefault(self._restorer.program_for(size), []).append(job)
        for group in by_program.values():
            for start in range(0, len(group), self._restorer.batch_size):
                yield group[start : start + self._restorer.batch_size]

    def _decode(self, report: Report, batch: list[Job]) -> list[tuple[Job, Photo]]:
        def read(job: Job) -> tuple[Job, Photo]:
            photo = photos.read(job.source, self._max_pixels)
            photos.check_format_supports(job.target, photo)  # before it is restored
            return job, photo

        return list(report.without_failures(read, batch))

    def _restore(
        self, report: Report, batch: list[tuple[Job, Photo]]
    ) -> list[tuple[Job, Photo, Photo]]:
        if not batch:
            return []
        jobs, read = zip(*batch)
        try:
            report.show_tiles(self._restorer.grid_of(read[0].pixels))
            return list(zip(jobs, read, restore_photos(self._restorer, read)))
        except UserError as error:
            if len(batch) > 1:  # one of them may be the reason
                return [done for item in batch for done in self._restore(report, [item])]
            report.fail(f"{jobs[0].source}: {error}")
            return []

    def _encode(self, report: Report, batch: list[tuple[Job, Photo, Photo]]) -> None:
        def write(item: tuple[Job, Photo, Photo]) -> None:
            job, photo, restored = item
            photos.write(job.target, restored, self._quality)
            if self._compare:
                try:
                    write_sheet(job.target, photo, restored)
                except UserError as error:
                    report.fail_sheet(str(error))
            report.bar.update()

        for _ in report.without_failures(write, batch):
            pass


def write_sheet(target: Path, before: Photo, after: Photo) -> None:
    """Writes a sheet with a photo before and after, beside the restored photo `target`."""
    sheet = make_sheet([[("before", to_rgb8(before)), ("after", to_rgb8(after))]])
    photos.write(target.with_name(f"{target.name}{SHEET}"), Photo(shrink(sheet, MAX_SHEET_SIDE)))


def restore_photos(
    restorer: Restorer, photos: Sequence[Photo], progress: Progress = no_progress
) -> list[Photo]:
    """Restores photos of all kinds: grey as RGB, of which the mean is taken; alpha is kept."""
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
    """Replaces the colours of [H, W, C] by RGB [H, W, 3], or its mean if grey; keeps alpha."""
    count = 3 if pixels.shape[2] >= 3 else 1
    if count == 1:
        rgb = np.rint(rgb.mean(axis=2, keepdims=True)).astype(rgb.dtype)
    return np.concatenate([rgb, pixels[..., count:]], axis=2)


def to_rgb8(photo: Photo) -> np.ndarray:
    """Converts a photo to uint8 RGB [H, W, 3], for sheets."""
    rgb = to_rgb(photo.pixels)
    return rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)
