"""Watches a run and shows how it goes: guard, progress bar, event file and profiler's trace."""

from collections.abc import Mapping
from typing import Any

import jax

from mprnet_jax.config import TrainConfig
from mprnet_jax.data.batches import TrainingBatches
from mprnet_jax.training.guard import Guard
from mprnet_jax.training.progress import Progress, Trace
from mprnet_jax.training.step import Metrics
from mprnet_jax.training.summaries import Summaries
from mprnet_jax.training.validation import Validation


class Monitor:
    """Reports steps and validations of a run. Only the first host shows them."""

    def __init__(
        self,
        config: TrainConfig,
        first_step: int,
        source: Any,
        batches: TrainingBatches,
        counts: Mapping[str, int],
        summaries: Summaries,
    ):
        """Starts to watch.

        Args:
            config: of the run.
            first_step: number of steps before this start.
            source: the training examples.
            batches: drawn from them; they know the names of their examples.
            counts: of the guard so far.
            summaries: event file to write to; closed with the monitor.
        """
        is_main = jax.process_index() == 0
        self._batches, self._log_every, self._summaries = batches, config.log_every, summaries
        self._bar = Progress(config, first_step, enabled=is_main)
        self._guard = Guard(config, source, self._bar.log, counts)
        # Of one host: on one machine those of several would have the same name.
        steps = config.profile_steps if is_main else 0
        self._trace = Trace(summaries.folder, first_step, steps)

    def before_step(self, step: int, state: Any) -> None:
        """Starts or ends the trace if that is due before step number `step` from `state`."""
        self._trace.update(step, state)

    def log_unreadable(self, batch: dict) -> dict:
        """Logs examples that could not be read; "unreadable" becomes bool."""
        return self._guard.log_unreadable(batch)

    def report(self, step: int, metrics: Metrics | None) -> None:
        """Waits for the metrics of step number `step`, checks and shows them; None does nothing.

        Raises:
            UserError: if too many steps were skipped or too many examples unreadable.
        """
        if metrics is None:
            return
        values = jax.device_get(metrics)
        self._guard.check(step, values, lambda: self._batches.example_names(step - 1))
        self._bar.update(values)
        if step % self._log_every == 0:
            shown = {name: values[name] for name in values if name not in self.counts}
            self._summaries.scalars(step, shown | self.counts | self._bar.speed)

    @property
    def counts(self) -> dict[str, int]:
        """What went wrong so far; saved in checkpoints."""
        return self._guard.counts

    def validation(self, step: int, validation: Validation) -> None:
        """Shows a validation."""
        self._summaries.validation(step, validation)

    def restart_clock(self) -> None:
        """Leaves the time until now out of images/s."""
        self._bar.restart()

    def close(self) -> None:
        """Ends the progress bar, the trace and the event file."""
        self._bar.close()
        self._trace.close()
        self._summaries.close()


def print_on_main(text: str) -> None:
    """Prints on the first host only."""
    if jax.process_index() == 0:
        print(text, flush=True)
