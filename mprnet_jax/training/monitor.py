"""Watches a run and shows how it goes: guard, progress bar, event file and profiler's trace."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from mprnet_jax.config import TrainConfig
from mprnet_jax.data.batches import TrainingBatches
from mprnet_jax.devices import hosts
from mprnet_jax.training.guard import Guard
from mprnet_jax.training.progress import Progress, Trace
from mprnet_jax.training.step import Metrics
from mprnet_jax.training.summaries import Summaries
from mprnet_jax.training.validation import ValidationResult


class Monitor:
    """Checks and shows the steps and validations of a run.

    Process 0 alone shows them, except unreadable examples, which each process logs.
    """

    def __init__(
        self,
        config: TrainConfig,
        start_step: int,
        num_examples: int,
        batches: TrainingBatches,
        counts: Mapping[str, int],
        summaries: Summaries,
    ):
        """Starts to watch.

        Args:
            config: of the run.
            start_step: number of steps done before.
            num_examples: size of the training set.
            batches: of the run; their examples' names are logged with skipped steps.
            counts: `Guard.counts` of the checkpoint that the run starts from.
            summaries: event file to write to; closed with the monitor.
        """
        is_main = hosts.is_main_process()
        self._batches, self._log_every, self._summaries = batches, config.log_every, summaries
        self._bar = Progress(config, start_step, enabled=is_main)
        self._guard = Guard(config, num_examples, self._bar.log, counts)
        # Of one process: the traces of several on one machine would have the same file name.
        steps = config.profile_steps if is_main else 0
        self._trace = Trace(summaries.folder, start_step, steps)

    def before_step(self, step: int, state: Any) -> None:
        """Starts or ends the trace if that is due; called before the next step.

        Args:
            step: number of steps done.
            state: after them.
        """
        self._trace.update(step, state)

    def log_unreadable(self, batch: dict) -> dict:
        """Logs the error messages in `batch["unreadable"]`; see `Guard.log_unreadable`."""
        return self._guard.log_unreadable(batch)

    def report(self, step: int, metrics: Metrics | None) -> None:
        """Waits for the metrics of the `step`-th step, checks and shows them; None does nothing.

        Raises:
            UserError: if too many steps were skipped or too many examples unreadable.
        """
        if metrics is None:
            return
        values = jax.device_get(metrics)
        names = functools.partial(self._batches.example_names, step - 1)
        self._guard.count_and_check(step, values, names)
        self._bar.update(values)
        if step % self._log_every == 0:
            self._summaries.write_scalars(step, values | self.counts | self._bar.speed)

    @property
    def counts(self) -> dict[str, int]:
        """`Guard.counts`, which checkpoints save."""
        return self._guard.counts

    def write_validation(self, step: int, validation: ValidationResult) -> None:
        """Adds a validation to the event file."""
        self._summaries.write_validation(step, validation)

    def restart_clock(self) -> None:
        """Restarts the images/s measurement, so that saving and validating do not count."""
        self._bar.restart()

    def close(self) -> None:
        """Ends the progress bar, the trace and the event file."""
        self._bar.close()
        self._trace.close()
        self._summaries.close()
