"""Costs of the programs that restore images: seconds to compile and to run, and memory.

Costs are measured and kept between commands; until they are measured, they are guessed. Sizes are
(height, width) in pixels, multiples of 8.
"""

import math
from dataclasses import astuple, dataclass, field
from typing import NamedTuple

import jax

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import records
from mprnet_jax.model.cost import forward_flops
from mprnet_jax.restoration.sizes import Size


class Guess(NamedTuple):
    """The costs that are assumed on a platform, or of a runtime, before any is measured."""

    compile_exact: float  # seconds, of a program for one size
    compile_canvas: float  # seconds, of a program with a canvas
    flops_per_second: float
    bytes_per_feature: float  # memory per pixel and channel of the widest stage, in float32


GUESSES = {
    "cpu": Guess(2.5, 3.5, 1.4e11, 36),
    "gpu": Guess(20.0, 25.0, 1.5e14, 36),
    "tpu": Guess(120.0, 150.0, 5e13, 36),
    # These are never measured: they compile nothing, and do not tell what a program will take.
    # Their memory is that of `python -m benchmarks.engines memory`.
    "onnxruntime": Guess(0.0, 0.0, 1.4e11, 38),
    "openvino": Guess(0.0, 0.0, 1.4e11, 82),
}
# Memory in bfloat16 as a share of that in float32. More than half, as some arrays stay float32.
BFLOAT16_SHARE = 0.6
# Time to load a program from the compile cache as a share of the time to compile it.
LOADING_SHARE = 0.2
MAX_CACHED = 200  # programs that are remembered as being in the compile cache
SMALL = 96**2  # pixels; the time and memory of smaller programs are mostly fixed costs


class ProgramShape(NamedTuple):
    """The key of a program: the size of its images or, with a canvas, the largest size."""

    height: int
    width: int
    canvas: bool

    @property
    def pixels(self) -> int:
        """Pixels of each array that the program takes, including those around smaller images."""
        return self.height * self.width

    def holds(self, size: Size) -> bool:
        """Returns whether the program restores images of this size."""
        if self.canvas:
            return size[0] <= self.height and size[1] <= self.width
        return size == (self.height, self.width)


@dataclass
class Costs:
    """The costs of one network's programs on one kind of device."""

    key: str  # names the record on disk
    compile_seconds: dict[bool, float]  # of a program with (True) or without a canvas
    seconds_per_pixel: float
    bytes_per_pixel: float  # on each device
    cached: tuple[ProgramShape, ...] = ()  # programs in the compile cache, the newest last
    # The numbers in the record, among them the pixels of the largest program that was measured.
    measured: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(
        cls, config: ModelConfig, platform: str, where: str, variant: str, pixels: float = 1
    ) -> "Costs":
        """Returns the costs on record, with guesses for those that were not measured yet.

        Args:
            config: the network's configuration.
            platform: what to guess for, a key of `GUESSES`: JAX's platform or a runtime.
            where: the kind of device, and the library that makes programs for it, in words.
            variant: the other options that change programs, in words.
            pixels: how many pixels each device computes per pixel of one image: more than 1 in
                batches, less where devices share images.
        """
        guess = GUESSES.get(platform, GUESSES["gpu"])
        network = "-".join(map(str, astuple(config)))
        key = f"{where}: {network}, {variant}"
        channels = max(map(config.stage_width, config.subnets))
        memory = guess.bytes_per_feature * pixels * channels
        if config.dtype != "float32":
            memory *= BFLOAT16_SHARE
        record = records.read(key)
        measured = {
            name: float(number)
            for name, number in record.items()
            if name != "programs" and isinstance(number, int | float) and 0 < number < math.inf
        }
        try:
            cached = tuple(ProgramShape(int(h), int(w), bool(c)) for h, w, c in record["programs"])
        except (KeyError, TypeError, ValueError):  # none yet, or the file was edited
            cached = ()
        # If only one kind of program was measured, the guess for the other is scaled accordingly.
        ratio = guess.compile_canvas / guess.compile_exact if guess.compile_exact else 1
        exact = measured.get(
            "compile", measured.get("compile_canvas", guess.compile_canvas) / ratio
        )
        return cls(
            key,
            {False: exact, True: measured.get("compile_canvas", exact * ratio)},
            seconds_per_pixel=measured.get(
                "run", forward_flops(config, 1, 1) / guess.flops_per_second
            ),
            bytes_per_pixel=measured.get("memory", memory),
            cached=cached,
            measured=measured,
        )

    def seconds_to_compile(self, program: ProgramShape) -> float:
        """Returns the expected seconds to compile a program, or to load it from the cache."""
        seconds = self.compile_seconds[program.canvas]
        return LOADING_SHARE * seconds if program in self.cached else seconds

    def last_compile_seconds(self, program: ProgramShape) -> float | None:
        """Returns the seconds that compiling a program of this kind took last, None if unknown."""
        return self.measured.get("compile_canvas" if program.canvas else "compile")

    def record_compile(self, program: ProgramShape, seconds: float, memory: float) -> None:
        """Records that a program was compiled, or loaded from the compile cache.

        Args:
            program: the program.
            seconds: how long that took.
            memory: bytes that it takes on each device; 0 if that is not known.
        """
        known = program in self.cached
        # Half the time to compile is too long for loading: the cache no longer had the program.
        if not known or seconds > self.compile_seconds[program.canvas] / 2:
            self.compile_seconds[program.canvas] = seconds
            self.measured["compile_canvas" if program.canvas else "compile"] = seconds
        cached_from: float = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
        if not known and seconds > cached_from:
            self.cached = (*self.cached, program)[-MAX_CACHED:]
        if memory > 0 and self._remember_if_largest(program, "memory_pixels"):
            self.bytes_per_pixel = self.measured["memory"] = memory / program.pixels
        self._save()

    def record_run(self, program: ProgramShape, images: int, seconds: float) -> None:
        """Records the time of a run.

        Call only for runs that are not the program's first and during which nothing compiled.

        Args:
            program: the program.
            images: how many images it restored, with those that only fill up a batch.
            seconds: how long that took.
        """
        if not self._remember_if_largest(program, "run_pixels"):
            return
        measured = seconds / (program.pixels * images)
        # Small changes are not saved, or the file would be written after every image.
        if not 0.8 < measured / self.seconds_per_pixel < 1.25 or "run" not in self.measured:
            self.seconds_per_pixel = self.measured["run"] = measured
            self._save()

    def _remember_if_largest(self, program: ProgramShape, name: str) -> bool:
        """Stores a program's pixels under a name, unless it is small or a larger one is stored.

        Returns:
            Whether they were stored. Larger programs give better estimates.
        """
        if program.pixels < max(self.measured.get(name, 0), SMALL):
            return False
        self.measured[name] = program.pixels
        return True

    def _save(self) -> None:
        records.update(self.key, **self.measured, programs=list(self.cached))
