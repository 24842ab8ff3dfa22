"""Restores many files; decoding, restoring and encoding overlap.

Programs are planned from the files' headers. Photos that share a program are restored one after
another, in batches. A photo that fails is reported on stderr, and the others are restored.
"""

import functools
import itertools
import sys
from collections import Counter
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
from mprnet_jax.imageio.pixels import split_alpha, to_rgb, to_uint8
from mprnet_jax.imageio.sheets import make_sheet, shrink
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.folders import SHEET, Job
from mprnet_jax.restoration.restorer import Progress, Restorer, no_progress
from mprnet_jax.restoration.sizes import Size
from mprnet_jax.restoration.tiles import Grid
from mprnet_jax.threads import prefetch

Item = TypeVar("Item")
Result = TypeVar("Result")

Pages = list[Photo]  # of one file

CODEC_THREADS = 4  # they decode and encode
MAX_SHEET_SIDE = 16_384  # pixels; a quarter of what JPEG allows
PREFETCHED = 2  # batches that are decoded ahead, and as many that are being encoded


class Summary(NamedTuple):
    """The number of photos by outcome, and what was left out of those that were restored."""

    restored: int
    skipped: int
    failed: int
    failed_sheets: int = 0  # of restored photos
    left_out: str = ""


class Report:
    """The progress bar of a run, with the failures that were printed."""

    def __init__(self, bar: tqdm):
        """Starts without failures."""
        self.bar = bar
        self.failed = 0  # photos
        self.failed_sheets = 0
        self._printed: set[Grid] = set()
        self._left_out: Counter[tuple[str, str]] = Counter()

    def leave_out(self, job: Job, left_out: Sequence[str]) -> None:
        """Counts what was left out of a photo, by kind of file."""
        with self.bar.get_lock():
            self._left_out.update((what, job.source.suffix.lower()) for what in left_out)

    @property
    def left_out(self) -> str:
        """What was left out of how many files of which kind, in one line."""
        return "; ".join(
            f"{what} ({', '.join(f'{count} {extension}' for (_, extension), count in counts)})"
            for what, counts in itertools.groupby(
                sorted(self._left_out.items()), key=lambda item: item[0][0]
            )
        )

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
        todo = [job for job in jobs if self._overwrite or not paths.exists(job.target)]
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
            len(todo) - report.failed,
            len(jobs) - len(todo),
            report.failed,
            report.failed_sheets,
            report.left_out,
        )

    def _batches(self, report: Report, jobs: list[Job]) -> Iterator[list[Job]]:
        """Yields jobs whose photos share a program, in the order of the plan."""

        def measure(job: Job) -> tuple[list[Size], Job]:
            return photos.sizes_of(job.source, self._max_pixels), job

        measured = list(report.without_failures(measure, jobs))
        plan = self._restorer.plan([size for sizes, _ in measured for size in sizes])
        if len(plan.counts) > 1:
            report.bar.write(str(plan))
        by_program: dict[ProgramShape, list[Job]] = {program: [] for program in plan.order}
        for sizes, job in sorted(measured):
            by_program.setdefault(self._restorer.program_for(sizes[0]), []).append(job)
        for group in by_program.values():
            for start in range(0, len(group), self._restorer.batch_size):
                yield group[start : start + self._restorer.batch_size]

    def _decode(self, report: Report, batch: list[Job]) -> list[tuple[Job, Pages]]:
        def read(job: Job) -> tuple[Job, Pages]:
            pages = photos.read_pages(job.source, self._max_pixels)
            photos.check_format_supports(job.target, pages)  # before they are restored
            return job, pages

        return list(report.without_failures(read, batch))

    def _restore(
        self, report: Report, batch: list[tuple[Job, Pages]]
    ) -> list[tuple[Job, Pages, Pages]]:
        if not batch:
            return []
        jobs, read = zip(*batch)
        try:
            report.show_tiles(self._restorer.grid_of(to_rgb(read[0][0].pixels)))
            restored = iter(restore_photos(self._restorer, [p for pages in read for p in pages]))
            return [
                (job, pages, list(itertools.islice(restored, len(pages)))) for job, pages in batch
            ]
        except UserError as error:
            if len(batch) > 1:  # one of them may be the reason
                return [done for item in batch for done in self._restore(report, [item])]
            report.fail(f"{jobs[0].source}: {error}")
            return []

    def _encode(self, report: Report, batch: list[tuple[Job, Pages, Pages]]) -> None:
        def write(item: tuple[Job, Pages, Pages]) -> None:
            job, pages, restored = item
            report.leave_out(job, photos.write(job.target, restored, self._quality))
            if self._compare:
                try:
                    write_sheet(job.target, pages, restored)
                except UserError as error:
                    report.fail_sheet(str(error))
            report.bar.update()

        for _ in report.without_failures(write, batch):
            pass


def write_sheet(target: Path, before: Pages, after: Pages) -> None:
    """Writes a sheet with a photo before and after, beside the restored photo `target`.

    Each page has a row.
    """
    rows = [[("before", to_rgb8(b)), ("after", to_rgb8(a))] for b, a in zip(before, after)]
    sheet = shrink(make_sheet(rows), MAX_SHEET_SIDE)
    photos.write(target.with_name(f"{target.name}{SHEET}"), Photo(sheet))


def restore_photos(
    restorer: Restorer, photos: Sequence[Photo], progress: Progress = no_progress
) -> list[Photo]:
    """Restores photos of all kinds: grey as RGB, of which the mean is taken; alpha is kept.

    Raises:
        UserError: if the network returns values that are not finite.
        OutOfMemory: as `Restorer.batch` does.
    """
    restored = restorer.batch([to_rgb(photo.pixels) for photo in photos], progress)
    return [
        photo._replace(pixels=replace_colours(photo.pixels, rgb))
        for photo, rgb in zip(photos, restored)
    ]


def replace_colours(pixels: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Replaces the colours of [H, W, C] by RGB [H, W, 3], or its mean if grey; keeps alpha.

    Floats are clipped to [0, 1], as integers have been.
    """
    colours, alpha = split_alpha(pixels)
    is_float = rgb.dtype.kind == "f"
    if is_float and not np.isfinite(rgb).all():
        raise UserError("the restored photo is not finite; use other weights")
    if colours.shape[2] == 1:
        mean = rgb.mean(axis=2, keepdims=True)
        rgb = (mean if is_float else np.rint(mean)).astype(rgb.dtype)
    if is_float:
        rgb = np.clip(rgb, 0, 1)
    return np.concatenate([rgb, alpha], axis=2)


def to_rgb8(photo: Photo) -> np.ndarray:
    """Converts a photo to uint8 RGB [H, W, 3], for sheets."""
    return to_uint8(to_rgb(photo.pixels))
