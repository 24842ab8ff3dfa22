"""What the programs that restore images cost: seconds to compile and to run, and memory.

Costs are measured and kept between commands. Until then they are guessed. Sizes are
(height, width) in pixels, multiples of 8.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import compiling, records
from mprnet_jax.model.cost import forward_flops

Size = tuple[int, int]

# First guesses by platform: seconds to compile a program for one size, seconds to compile one with
# a canvas, FLOP/s, and bytes of memory per pixel and channel of the last stage in float32.
GUESSES = {
    "cpu": (2.5, 3.5, 1.4e11, 36),
    "gpu": (20.0, 25.0, 1.5e14, 36),
    "tpu": (120.0, 150.0, 5e13, 36),
}
LOADING = 0.2  # time to load a program from the compile cache, as a share of the time to compile it
MOST_CACHED = 200  # programs that are remembered as being in the compile cache
SMALL = 96**2  # pixels; the time and memory of smaller programs are mostly fixed costs


class Program(NamedTuple):
    """A program for images of one size or, with a canvas, for all smaller ones too."""

    height: int
    width: int
    canvas: bool

    @property
    def pixels(self) -> int:
        """Pixels of each image that the program takes."""
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
    compile_seconds: dict[bool, float]  # by `Program.canvas`
    seconds_per_pixel: float
    bytes_per_pixel: float  # on each device
    cached: tuple[Program, ...] = ()  # programs in the compile cache, the newest last
    # The numbers in the record, among them the pixels of the largest program that was measured.
    measured: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(
        cls, config: ModelConfig, device: jax.Device, variant: str, pixels: float = 1
    ) -> "Costs":
        """Returns the costs on record, with guesses for those that were not measured yet.

        Args:
            config: the network's configuration.
            device: one of the devices that run it.
            variant: what else tells one program from another, in words.
            pixels: how many pixels each device computes per pixel of one image: more than 1 in
                batches, less where devices share images.
        """
        exact, canvas, flops_per_second, memory = GUESSES.get(device.platform, GUESSES["gpu"])
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
        except (KeyError, TypeError, ValueError):  # none yet, or the file was edited
            cached = ()
        # Where only one kind of program was measured, the guess for the other is scaled alike.
        ratio = canvas / exact
        exact = measured.get("compile", measured.get("compile_canvas", canvas) / ratio)
        return cls(
            key,
            {False: exact, True: measured.get("compile_canvas", exact * ratio)},
            seconds_per_pixel=measured.get("run", forward_flops(config, 1, 1) / flops_per_second),
            bytes_per_pixel=measured.get(
                "memory", memory * pixels * channels * (1 if config.dtype == "float32" else 0.6)
            ),
            cached=cached,
            measured=measured,
        )

    def seconds_to_compile(self, program: Program) -> float:
        """Returns the expected seconds to compile a program, or to load it from the cache."""
        seconds = self.compile_seconds[program.canvas]
        return LOADING * seconds if program in self.cached else seconds

    def last_compile_seconds(self, program: Program) -> float | None:
        """Returns the seconds that compiling such a program took last, None if never measured."""
        return self.measured.get("compile_canvas" if program.canvas else "compile")

    def record_compile(self, program: Program, seconds: float, memory: float) -> None:
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
        if not known and seconds > compiling.SHORTEST_KEPT:
            self.cached = (*self.cached, program)[-MOST_CACHED:]
        if memory > 0 and self._is_largest(program, "memory_pixels"):
            self.bytes_per_pixel = self.measured["memory"] = memory / program.pixels
        self._save()

    def record_run(self, program: Program, images: int, seconds: float) -> None:
        """Records the time of a run, neither the program's first nor one beside a compilation."""
        if not self._is_largest(program, "run_pixels"):
            return
        measured = seconds / (program.pixels * images)
        # Small changes are not saved, or the file would be written after every image.
        if not 0.8 < measured / self.seconds_per_pixel < 1.25 or "run" not in self.measured:
            self.seconds_per_pixel = self.measured["run"] = measured
            self._save()

    def _is_largest(self, program: Program, name: str) -> bool:
        """Returns whether no larger program was measured: larger ones give better estimates."""
        if program.pixels < max(self.measured.get(name, 0), SMALL):
            return False
        self.measured[name] = program.pixels
        return True

    def _save(self) -> None:
        records.update(self.key, **self.measured, programs=list(self.cached))
