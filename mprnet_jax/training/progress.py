"""What a run shows while it goes on: a progress bar, its speed, and a trace for the profiler."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from tqdm import tqdm

from mprnet_jax.config import TrainConfig
from mprnet_jax.model.cost import forward_flops

WARM_STEPS = 3  # of a command before its trace begins: the first compiles


class Progress:
    """The progress bar: steps/s, time left, loss, learning rate, images/s."""

    def __init__(self, config: TrainConfig, first: int, *, enabled: bool):
        self._batch_size = config.batch_size
        # Forward and backward passes take three times what the forward pass does.
        self._image_flops = 3 * forward_flops(config.model, config.patch_size, config.patch_size)
        self._bar = tqdm(
            total=config.total_steps,
            initial=first,
            desc=config.name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not enabled,
        )
        self._steps, self._time = 0, None

    def restart(self) -> None:
        """Starts the clock of images/s: validating and saving do not count."""
        self._steps, self._time = 0, time.perf_counter()

    def update(self, values: Mapping[str, float]) -> None:
        """Counts a step with the values of its metrics."""
        if self._time is None:
            self.restart()  # the first step waited for the compiler
        else:
            self._steps += 1
        self._bar.set_postfix_str(
            f"loss {values['loss']:.4f}, rate {values['learning_rate']:.1e}, "
            f"{self._images_per_second:.1f} images/s",
            refresh=False,
        )
        self._bar.update()

    @property
    def speed(self) -> dict[str, float]:
        """Since the last `restart`: images/s, and TFLOP/s of the network's nominal arithmetic."""
        images = self._images_per_second
        return {"images_per_second": images, "model_tflops": images * self._image_flops / 1e12}

    @property
    def _images_per_second(self) -> float:
        return self._steps * self._batch_size / (time.perf_counter() - self._time)

    def tell(self, text: str) -> None:
        """Prints a line above the bar, on every host."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class Trace:
    """A trace of a few steps of a command in its run folder, for TensorBoard's profiler."""

    def __init__(self, run_folder: Path, first: int, steps: int):
        self._folder = run_folder
        self._begin = first + WARM_STEPS
        self._end = self._begin + steps
        self._running = False

    def before(self, step: int, state: Any) -> None:
        """Starts or ends the trace where step number `step` is the one to do so."""
        if self._begin == step < self._end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if self._running and step == self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that is running."""
        if self._running:
            self._running = False
            try:
                jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:  # no reason to end a run
                logging.warning("%s: the trace cannot be written (%s)", self._folder, error)
