"""Chooses programs for images of many sizes, so that compiling and running take least time.

An exact program restores images of one size; a program with a canvas restores all images that fit
into it (see `model.canvas`). To compile a program for each size takes long; to pad all images to
one size computes many pixels that no image has. Sizes are (height, width) in pixels, multiples of
8.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mprnet_jax.restoration.costs import Costs, ProgramShape
from mprnet_jax.restoration.sizes import Size, round_up

MAX_SIZES = 400  # sizes that are planned one by one; if there are more, they are rounded up first
CANVAS_STEP = 64  # pixels; the sides of an unplanned canvas are rounded up to it, if that is cheap
EXPECTED_IMAGES = 4  # how many images an unplanned canvas is expected to restore
RETRY_SHARE = 0.7  # of the pixels of a rejected canvas: the most that later canvases have


class Plan(NamedTuple):
    """Which program restores images of each size; `str` describes it in one line."""

    programs: dict[Size, ProgramShape]
    counts: Mapping[Size, int]  # number of images of each size
    seconds: float  # expected time to compile the programs and to run them on all images

    @property
    def order(self) -> list[ProgramShape]:
        """The programs in the order to compile and run them: most work first."""
        work: Counter[ProgramShape] = Counter()
        for size, count in self.counts.items():
            work[self.programs[size]] += count * self.programs[size].pixels
        return sorted(work, key=lambda program: -work[program])

    def __str__(self) -> str:
        images = f"{sum(self.counts.values())} images of {len(self.counts)} sizes to compute"
        time = f"about {self.seconds:.0f} s"
        canvases = sum(program.canvas for program in self.order)
        if not canvases:  # each size has its own program
            return f"{images}; {time}"
        pixels = sum(count * height * width for (height, width), count in self.counts.items())
        computed = sum(count * self.programs[size].pixels for size, count in self.counts.items())
        programs = f"{len(self.order)} program{'s' if len(self.order) != 1 else ''}"
        return (
            f"{images}: {programs}, {canvases} of them for several sizes, computing "
            f"{computed / max(pixels, 1):.2f} times the photos' pixels; {time}"
        )


class ProgramChooser:
    """Chooses the program for each size: the planned one, or else a cheap one."""

    def __init__(self, costs: Costs, batch_size: int, max_program_pixels: float):
        """Makes a chooser without a plan.

        Args:
            costs: the costs of programs.
            batch_size: how many images are restored at once.
            max_program_pixels: the most pixels of a program, however much memory there is.
        """
        self.max_program_pixels = max_program_pixels
        self._costs = costs
        self._batch_size = batch_size
        self._planned: dict[Size, ProgramShape] = {}
        self._counts: Mapping[Size, int] = {}
        self._rejected: set[ProgramShape] = set()
        self._max_canvas_pixels = max_program_pixels  # lowered by rejected canvases
        self._wasted: dict[Size, float] = {}  # seconds spent on padding so far, by size

    def plan(self, counts: Mapping[Size, int], max_canvas_pixels: float) -> Plan:
        """Plans for images of these sizes, given the number of each; replaces earlier plans."""
        limit = min(max_canvas_pixels, self._max_canvas_pixels)
        chosen = make_plan(counts, self._costs, limit, self._batch_size)
        self._planned, self._counts = dict(chosen.programs), counts
        return chosen

    def choose(self, size: Size, requested: Collection[ProgramShape]) -> ProgramShape:
        """Returns the program for images of a size, given those that are or will be compiled.

        A size without a plan uses one of them or one in the compile cache, if little of it is
        padding. If there is none, the first size gets an exact program, as it may be the only
        one, and later sizes get canvases.
        """
        if size in self._planned:
            return self._planned[size]
        costs, exact, canvas = self._costs, ProgramShape(*size, False), ProgramShape(*size, True)
        if exact in requested or self._wasted.get(size, 0) >= costs.seconds_to_compile(exact):
            return exact
        cached = (p for p in costs.cached if p.pixels <= self._max_canvas_pixels or not p.canvas)
        available = smallest({*requested, *cached} - self._rejected, size)
        if available and self._seconds_wasted(available, size) < costs.seconds_to_compile(canvas):
            return available
        if not requested or canvas.pixels > self._max_canvas_pixels:
            return exact
        height, width = (round_up(side, CANVAS_STEP) for side in size)
        rounded = ProgramShape(height, width, True)
        expected_waste = EXPECTED_IMAGES * self._seconds_wasted(rounded, size)
        cheap = expected_waste <= costs.compile_seconds[True]
        return rounded if cheap and rounded.pixels <= self._max_canvas_pixels else canvas

    def reject(self, canvas: ProgramShape) -> None:
        """Replaces a canvas that does not fit into memory with smaller ones."""
        self._rejected.add(canvas)
        self._max_canvas_pixels = min(self._max_canvas_pixels, RETRY_SHARE * canvas.pixels)
        sizes = [size for size, planned in self._planned.items() if planned == canvas]
        counts = {size: self._counts[size] for size in sizes}
        smaller = make_plan(counts, self._costs, self._max_canvas_pixels, self._batch_size)
        self._planned |= smaller.programs

    def record_use(self, program: ProgramShape, size: Size) -> None:
        """Records that a program restored an image of a size.

        A size without a plan gets an exact program once its images wasted as much time on padding
        as that takes to compile.
        """
        self._wasted[size] = self._wasted.get(size, 0) + self._seconds_wasted(program, size)

    def _seconds_wasted(self, program: ProgramShape, size: Size) -> float:
        return self._costs.seconds_per_pixel * (program.pixels - math.prod(size))


def make_plan(
    counts: Mapping[Size, int], costs: Costs, max_canvas_pixels: float, batch_size: int = 1
) -> Plan:
    """Chooses programs so that compiling plus running takes as little time as possible.

    Args:
        counts: number of images of each size.
        costs: the costs of programs.
        max_canvas_pixels: the most pixels that a canvas may have.
        batch_size: how many images are restored at once; programs always compute whole batches.
    """
    # The plan `merged` ignores the compile cache. `cached` uses its programs wherever an image fits
    # into one, and compiles the others. `exact` has a program for each size, however many.
    merged = merge_sizes(counts, costs, max_canvas_pixels, batch_size)
    in_cache = [program for program in costs.cached if program.pixels <= max_canvas_pixels]
    fitting = {size: smallest(in_cache, size) for size in counts}
    cached = {size: program for size, program in fitting.items() if program}
    missing = {size: counts[size] for size, program in fitting.items() if not program}
    cached |= merge_sizes(missing, costs, max_canvas_pixels, batch_size)
    exact = {size: ProgramShape(*size, False) for size in counts}
    plans = [
        Plan(programs, counts, total_seconds(programs, counts, costs, batch_size))
        for programs in (merged, cached, exact)
    ]
    return min(plans, key=lambda each: each.seconds)


def total_seconds(
    programs: Mapping[Size, ProgramShape], counts: Mapping[Size, int], costs: Costs, batch_size: int
) -> float:
    """Returns the expected time to compile the programs and to run them on all images."""
    num_images: Counter[ProgramShape] = Counter()
    for size, count in counts.items():
        num_images[programs[size]] += count
    pixels = sum(round_up(num, batch_size) * program.pixels for program, num in num_images.items())
    return costs.seconds_per_pixel * pixels + sum(map(costs.seconds_to_compile, num_images))


def smallest(programs: Iterable[ProgramShape], size: Size) -> ProgramShape | None:
    """Returns the smallest of the programs that restore images of a size, None if none does."""
    fitting = (program for program in programs if program.holds(size))
    return min(fitting, key=lambda program: (program.pixels, program.canvas), default=None)


def merge_sizes(
    counts: Mapping[Size, int], costs: Costs, max_canvas_pixels: float, batch_size: int
) -> dict[Size, ProgramShape]:
    """Returns a program for each size, found by merging groups of sizes while that saves time.

    The sizes of a group share a canvas. Each step merges the two groups for which that saves most
    time. The compile cache is ignored.
    """
    groups = initial_groups(list(counts), max_canvas_pixels)
    if not groups:
        return {}
    heights, widths = (np.array([max(s[i] for s in group) for group in groups]) for i in (0, 1))
    num_images = np.array([sum(counts[size] for size in group) for group in groups])

    def run_seconds(pixels: np.ndarray, num_images: np.ndarray) -> np.ndarray:
        return costs.seconds_per_pixel * pixels * round_up(num_images, batch_size)

    compile_seconds = [costs.compile_seconds[len(group) > 1] for group in groups]
    total = run_seconds(heights * widths, num_images) + compile_seconds

    def seconds_saved(i: int) -> np.ndarray:
        """Returns the seconds that merging group i with each of the groups would save."""
        pixels = np.maximum(heights, heights[i]) * np.maximum(widths, widths[i])
        merged = run_seconds(pixels, num_images + num_images[i]) + costs.compile_seconds[True]
        mergeable = (num_images > 0) & (pixels <= max_canvas_pixels)  # empty groups were merged
        mergeable[i] = False
        return np.where(mergeable, total + total[i] - merged, -np.inf)

    saved = np.array([seconds_saved(i) for i in range(len(groups))])
    while saved.max() > 0:
        i, j = map(int, np.unravel_index(np.argmax(saved), saved.shape))
        groups[i] += groups[j]
        heights[i], widths[i] = max(heights[i], heights[j]), max(widths[i], widths[j])
        num_images[i] += num_images[j]
        total[i] = run_seconds(heights[i] * widths[i], num_images[i]) + costs.compile_seconds[True]
        groups[j], num_images[j] = [], 0
        saved[i] = saved[:, i] = seconds_saved(i)
        saved[j] = saved[:, j] = -np.inf
    programs: dict[Size, ProgramShape] = {}
    for group, height, width in zip(groups, heights.tolist(), widths.tolist()):
        programs |= dict.fromkeys(group, ProgramShape(height, width, canvas=len(group) > 1))
    # A size may fit into a smaller canvas than that of its group.
    return {size: smallest(set(programs.values()), size) or programs[size] for size in programs}


def initial_groups(sizes: list[Size], max_canvas_pixels: float) -> list[list[Size]]:
    """Returns one group per size or, if there are more than `MAX_SIZES`, per rounded-up size.

    A size that has more than `max_canvas_pixels` when rounded up has a group of its own.
    """
    groups, step = [[size] for size in sizes], 16
    while len(groups) > MAX_SIZES and step < max(map(max, sizes)):
        by_rounded: dict[Size, list[Size]] = {}
        for size in sizes:
            height, width = (round_up(side, step) for side in size)
            key = (height, width) if height * width <= max_canvas_pixels else size
            by_rounded.setdefault(key, []).append(size)
        # A larger step may leave more sizes alone, as more of them exceed the limit.
        groups, step = min(groups, list(by_rounded.values()), key=len), 2 * step
    return groups
