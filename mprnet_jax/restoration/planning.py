"""Which compiled programs restore photos of many sizes, so that all are done soonest.

A program restores images of its own size or, on a canvas, all that are no larger (see
`model.canvas`). Compiling one for each size takes long; one canvas for all wastes pixels. Sizes are
(height, width) in pixels, multiples of 8.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import compiling, records
from mprnet_jax.model.cost import forward_flops

Size = tuple[int, int]

# First guesses by platform: seconds to compile a program, another number of them where it is a
# canvas, FLOP/s, and bytes of memory by pixel and channel of the last stage in float32.
GUESSES = {
    "cpu": (2.5, 3.5, 1.4e11, 36),
    "gpu": (20.0, 25.0, 1.5e14, 36),
    "tpu": (120.0, 150.0, 5e13, 36),
}
LOADING = 0.2  # seconds to load a program from the compile cache, as a share of compiling
MOST_CACHED = 200  # programs that are remembered
SMALL = 96**2  # pixels; what a smaller program takes is not taken for what a pixel takes
MOST_SIZES = 400  # that are planned one by one; more are rounded up first


class Program(NamedTuple):
    """What is compiled: for images of one size or, on a canvas, for all that are no larger."""

    height: int
    width: int
    canvas: bool

    @property
    def pixels(self) -> int:
        """Of each image that it is given."""
        return self.height * self.width

    def holds(self, size: Size) -> bool:
        """Whether it restores images of this size."""
        if self.canvas:
            return size[0] <= self.height and size[1] <= self.width
        return size == self[:2]


@dataclass
class Costs:
    """What the programs of one network cost on the device at hand: measured, at first guessed."""

    key: str  # under which they are kept between commands
    compile: dict[bool, float]  # seconds, by whether it is a canvas
    run: float  # seconds a pixel
    memory: float  # bytes a pixel on each device
    cached: tuple[Program, ...] = ()  # programs in the compile cache, the newest last
    # What was measured, by name: the numbers that are kept, and pixels of the largest program.
    measured: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: ModelConfig, device: jax.Device, variant: str, pixels: float = 1
    ) -> "Costs":
        """The costs, as far as they were measured before.

        Args:
            config: of the network.
            device: one of those that run it.
            variant: names what else decides which programs there are.
            pixels: that each device computes for a pixel of an image: more in batches, less where
                devices share images.
        """
        plain, canvas, speed, memory = GUESSES.get(device.platform, GUESSES["gpu"])
        sizes = (config.width, config.unet_growth, config.orsnet_growth, config.reduction)
        network = "-".join(map(str, (*sizes, config.cabs_per_orb, config.bias, config.dtype)))
        key = f"{device.device_kind}, jax {jax.__version__}: {network}, {variant}"
        channels = config.width + config.orsnet_growth
        record = records.read(key)
        measured = {
            name: float(number)
            for name, number in record.items()
            if name != "programs" and isinstance(number, int | float) and 0 < number < math.inf
        }
        try:
            cached = tuple(Program(int(h), int(w), bool(c)) for h, w, c in record["programs"])
        except (KeyError, TypeError, ValueError):
            cached = ()
        # One kind's first guess is as far off as the other's.
        ratio = canvas / plain
        plain = measured.get("compile", measured.get("compile_canvas", canvas) / ratio)
        return cls(
            key,
            {False: plain, True: measured.get("compile_canvas", plain * ratio)},
            run=measured.get("run", forward_flops(config, 1, 1) / speed),
            memory=measured.get(
                "memory", memory * pixels * channels * (1 if config.dtype == "float32" else 0.6)
            ),
            cached=cached,
            measured=measured,
        )

    def to_compile(self, program: Program) -> float:
        """Seconds until a program can be run."""
        seconds = self.compile[program.canvas]
        return LOADING * seconds if program in self.cached else seconds

    def last_compile(self, program: Program) -> float | None:
        """Seconds that compiling took the last time, if it was measured."""
        return self.measured.get("compile_canvas" if program.canvas else "compile")

    def compiled(self, program: Program, seconds: float, memory: float) -> None:
        """Takes note of a program that was compiled, or loaded from the compile cache.

        It takes `memory` bytes on each device; 0 if that is not known.
        """
        known = program in self.cached
        if not known or seconds > self.compile[program.canvas] / 2:  # it was there no more
            self.compile[program.canvas] = seconds
            self.measured["compile_canvas" if program.canvas else "compile"] = seconds
        if not known and seconds > compiling.SHORTEST_KEPT:
            self.cached = (*self.cached, program)[-MOST_CACHED:]
        if memory > 0 and self._is_largest(program, "memory_pixels"):
            self.memory = self.measured["memory"] = memory / program.pixels
        self._keep()

    def ran(self, program: Program, images: int, seconds: float) -> None:
        """Takes note of a run that was not the program's first one, and with nothing beside it."""
        if not self._is_largest(program, "run_pixels"):
            return
        measured = seconds / (program.pixels * images)
        changed = not 0.8 < measured / self.run < 1.25  # or it would be written after each photo
        if changed or "run" not in self.measured:
            self.run = self.measured["run"] = measured
            self._keep()

    def _is_largest(self, program: Program, name: str) -> bool:
        """Whether no larger program was measured. What a small one takes says little of pixels."""
        if program.pixels < max(self.measured.get(name, 0), SMALL):
            return False
        self.measured[name] = program.pixels
        return True

    def _keep(self) -> None:
        records.update(self.key, **self.measured, programs=list(self.cached))


class Plan(NamedTuple):
    """The program for each size; `str` makes it a line."""

    programs: dict[Size, Program]
    counts: Mapping[Size, int]  # how many images there are of each size
    seconds: float  # that compiling and running are expected to take

    @property
    def order(self) -> list[Program]:
        """The programs, those with most work first: meanwhile the others can be compiled."""
        work = Counter()
        for size, count in self.counts.items():
            work[self.programs[size]] += count * self.programs[size].pixels
        return sorted(work, key=lambda program: -work[program])

    def __str__(self) -> str:
        canvases = sum(program.canvas for program in self.order)
        pixels = sum(count * height * width for (height, width), count in self.counts.items())
        run = sum(count * self.programs[size].pixels for size, count in self.counts.items())
        return (
            f"{sum(self.counts.values())} images of {len(self.counts)} sizes to compute: "
            f"{len(self.order)} programs, {canvases} of them for several sizes, which compute "
            f"{run / max(pixels, 1):.2f} of the pixels; about {self.seconds:.0f} s"
        )


def plan(counts: Mapping[Size, int], costs: Costs, most_pixels: float, batch: int = 1) -> Plan:
    """Chooses programs so that compiling plus running takes as little time as possible.

    Args:
        counts: how many images there are of each size.
        costs: of programs.
        most_pixels: that a canvas may have.
        batch: images that are restored at once; a program computes whole batches.
    """
    fresh = grouped(counts, costs, most_pixels, batch)
    cached = [program for program in costs.cached if program.pixels <= most_pixels]
    loaded = {size: smallest(cached, size) for size in counts}
    missing = {size: counts[size] for size, program in loaded.items() if program is None}
    loaded |= grouped(missing, costs, most_pixels, batch)
    plans = [
        Plan(each, counts, total_seconds(each, counts, costs, batch)) for each in (fresh, loaded)
    ]
    return min(plans, key=lambda each: each.seconds)


def total_seconds(
    programs: Mapping[Size, Program], counts: Mapping[Size, int], costs: Costs, batch: int
) -> float:
    """What compiling all programs and running them on all images is expected to take."""
    images = Counter()
    for size, count in counts.items():
        images[programs[size]] += count
    run = sum(-(-count // batch) * batch * program.pixels for program, count in images.items())
    return costs.run * run + sum(map(costs.to_compile, images))


def smallest(programs: Iterable[Program], size: Size) -> Program | None:
    """The smallest of some programs that restores images of this size, if one does."""
    fitting = (program for program in programs if program.holds(size))
    return min(fitting, key=lambda program: (program.pixels, program.canvas), default=None)


def grouped(
    counts: Mapping[Size, int], costs: Costs, most_pixels: float, batch: int
) -> dict[Size, Program]:
    """The program for each size, by merging groups of sizes as long as that saves time.

    Each group shares a canvas that holds all of it; merged are always the two that save most.
    """
    groups = rounded_groups(list(counts), most_pixels)
    if not groups:
        return {}
    heights, widths = (np.array([max(s[i] for s in group) for group in groups]) for i in (0, 1))
    images = np.array([sum(counts[size] for size in group) for group in groups])

    def run(pixels: np.ndarray, images: np.ndarray) -> np.ndarray:
        return costs.run * pixels * (-(-images // batch) * batch)

    first = [costs.compile[len(group) > 1] for group in groups]
    total = run(heights * widths, images) + first

    def saved(i: int) -> np.ndarray:
        """Seconds that merging group i with each of the others saves."""
        pixels = np.maximum(heights, heights[i]) * np.maximum(widths, widths[i])
        merged = run(pixels, images + images[i]) + costs.compile[True]
        impossible = (images == 0) | (pixels > most_pixels)
        impossible[i] = True
        return np.where(impossible, -np.inf, total + total[i] - merged)

    savings = np.array([saved(i) for i in range(len(groups))])
    while savings.max() > 0:
        i, j = np.unravel_index(np.argmax(savings), savings.shape)
        groups[i] += groups[j]
        heights[i], widths[i] = max(heights[i], heights[j]), max(widths[i], widths[j])
        images[i] += images[j]
        total[i] = run(heights[i] * widths[i], images[i]) + costs.compile[True]
        groups[j], images[j] = [], 0
        savings[i] = savings[:, i] = saved(i)
        savings[j] = savings[:, j] = -np.inf
    programs = {}
    for group, height, width in zip(groups, heights.tolist(), widths.tolist()):
        programs |= dict.fromkeys(group, Program(height, width, canvas=len(group) > 1))
    # A size may fit on a smaller canvas than that of its group.
    return {size: smallest(set(programs.values()), size) for size in programs}


def rounded_groups(sizes: list[Size], most_pixels: float) -> list[list[Size]]:
    """About `MOST_SIZES` groups of sizes at most: one for each, or those that round up alike."""
    groups, step = [[size] for size in sizes], 16
    while len(groups) > MOST_SIZES and step < max(map(max, sizes)):
        alike: dict[Size, list[Size]] = {}
        for size in sizes:
            rounded = tuple(-(-side // step) * step for side in size)
            # Sizes whose canvas would be too large stay apart.
            alike.setdefault(rounded if math.prod(rounded) <= most_pixels else size, []).append(
                size
            )
        groups, step = list(alike.values()), 2 * step
    return groups
