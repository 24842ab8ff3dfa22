"""Shows how a run goes: a progress bar, the speed, and a trace for the profiler."""

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

WARM_STEPS = 3  # before a trace begins: the first one compiles


class Progress:
    """A progress bar with steps/s, time left, loss, learning rate and images/s."""

    def __init__(self, config: TrainConfig, start_step: int, *, enabled: bool):
        self._batch_size = config.batch_size
        # The backward pass takes twice the arithmetic of the forward pass.
        self._image_flops = 3 * forward_flops(config.model, config.patch_size, config.patch_size)
        self._bar = tqdm(
            total=config.total_steps,
            initial=start_step,
            desc=config.name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not enabled,
        )
        self._steps = 0
        self._time: float | None = None  # when the measurement started

    def restart(self) -> None:
        """Restarts the images/s measurement, so that saving and validating do not count."""
        self._steps, self._time = 0, time.perf_counter()

    def update(self, values: Mapping[str, float]) -> None:
        """Counts a step and shows its metrics."""
        if self._time is None:
            self.restart()  # the first step included compiling
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
        """Images/s since the last `restart`, and the model's TFLOP/s, backward pass included."""
        images = self._images_per_second
        return {"images_per_second": images, "model_tflops": images * self._image_flops / 1e12}

    @property
    def _images_per_second(self) -> float:
        if self._time is None:
            return 0.0
        return self._steps * self._batch_size / (time.perf_counter() - self._time)

    def log(self, text: str) -> None:
        """Prints a line above the bar, in every process."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Stops the bar, which stays on the screen."""
        self._bar.close()


class Trace:
    """Writes a trace of a few steps into a run folder, for TensorBoard's profiler."""

    def __init__(self, run_folder: Path, start_step: int, steps: int):
        self._folder = run_folder
        self._begin = start_step + WARM_STEPS
        self._end = self._begin + steps
        self._running = False

    def update(self, step: int, state: Any) -> None:
        """Starts or ends the trace if that is due; called before the next step.

        Args:
            step: number of steps done.
            state: after them; waits for it, so that the trace holds whole steps.
        """
        if self._begin == step < self._end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if self._running and step == self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace if it is running."""
        if self._running:
            self._running = False
            try:
                jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:  # the run goes on without a trace
                logging.warning("%s: the trace cannot be written (%s)", self._folder, error)
