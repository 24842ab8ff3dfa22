"""Watches a run: tells of steps that were skipped and pictures that cannot be read, and stops it
when there are too many of them.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from mprnet_jax.config import TrainConfig
from mprnet_jax.data.pairs import Example
from mprnet_jax.errors import UserError


class Guard:
    """Counts what goes wrong in a run; the counts are saved with it."""

    def __init__(
        self,
        config: TrainConfig,
        source: Sequence[Example],
        tell: Callable[[str], None],
        counts: Mapping[str, int] | None = None,
    ):
        """Takes the run's config and training examples, who prints a line, and earlier `counts`."""
        self._config, self._source, self._tell = config, source, tell
        self._told = set()
        self.counts = {"skipped": 0, "skipped_in_a_row": 0, "unreadable": 0} | dict(counts or {})

    def look_at(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tells of each example that cannot be read, once; "unreadable" becomes whether it is so.

        Each host tells of what it has tried to read itself.
        """
        numbers = batch["unreadable"]
        for number in sorted(set(numbers[numbers >= 0].tolist()) - self._told):
            self._told.add(number)
            try:
                self._source[number]
                reason = f"{self._source.names[number]}: could not be read at first"
            except UserError as error:
                reason = str(error)
            self._tell(f"{reason}; the next picture stands in for it")
        return batch | {"unreadable": numbers >= 0}

    def check(self, step: int, metrics: Mapping[str, float], names: Callable[[], list[str]]):
        """Counts what went wrong in step number `step`.

        Args:
            step: counted from 1.
            metrics: of this step.
            names: gives the names of the step's images.

        Raises:
            UserError: if too many steps in a row were skipped, or too many examples unreadable.
        """
        counts, config = self.counts, self._config
        counts["unreadable"] += int(metrics["unreadable"])
        counts["skipped_in_a_row"] += 1
        if not metrics["skipped"]:
            counts["skipped_in_a_row"] = 0
        else:
            counts["skipped"] += 1
            what = f"loss {metrics['loss']:.4g}, gradient norm {metrics['gradient_norm']:.4g}"
            if jax.process_index() == 0:
                self._tell(f"step {step} is skipped: {what}; its images: {', '.join(names())}")
            if counts["skipped_in_a_row"] >= config.optim.max_skipped:
                raise UserError(
                    f"step {step}: {counts['skipped_in_a_row']} steps in a row were skipped, the "
                    f"last with {what}; the checkpoints so far are sound. Start anew in another "
                    "workdir with a lower --config.optim.learning_rate or "
                    "--config.optim.clip_norm=0.01, and from here with --config.init_from=WORKDIR "
                    "if there is a checkpoint"
                )
        # In the first epoch what counts is the share of the whole set.
        seen = max(len(self._source), step * config.batch_size)
        if counts["unreadable"] > config.data.max_unreadable * seen:
            raise UserError(
                f"step {step}: {counts['unreadable']} of {seen} pictures could not be read, more "
                f"than data.max_unreadable={config.data.max_unreadable}: replace those named above"
            )
