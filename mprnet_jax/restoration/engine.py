"""What an engine is: it makes the programs that restore images with one network, and runs them."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from mprnet_jax.restoration.costs import Costs, ProgramShape


class Program(NamedTuple):
    """A program of an engine.

    `run(images, sizes, count)` takes float32 [B, H, W, 3] and, for a canvas, the height and width
    of each image in it, int32 [B, 2]. It returns those of the last `count` stages, the last stage
    first, float32 [B, count, H, W, 3]. It raises `OutOfMemory`.
    """

    run: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    bytes: float  # that each device takes to run it; 0 if that is unknown


class Engine(Protocol):
    """Makes programs; what differs from one engine to another."""

    costs: Costs  # if compiling costs nothing, no program has a canvas
    fixed_batch: bool  # whether programs take full batches only
    max_program_pixels: float  # the most pixels that a program may have, whatever the memory
    cpu_devices: int  # how many devices share the host's memory; 0 if they have their own

    def compile(self, shape: ProgramShape) -> Program:
        """Makes a program and records what that cost; raises `OutOfMemory` if it is too large."""

    def available_bytes(self, limit: int | None) -> float:
        """Returns the bytes that are free on each device; see `memory.available_bytes`."""


def remedy(batch_size: int, shape: ProgramShape) -> str:
    """Returns what to do where a program is too large, for the end of a message."""
    return f"restore {batch_size} x {shape.width}x{shape.height} pixels in smaller tiles or batches"
