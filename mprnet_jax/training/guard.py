"""Counts skipped steps and unreadable examples, and stops a run that has too many of them."""

from collections.abc import Callable, Mapping, Sized

import jax
import numpy as np

from mprnet_jax.config import TrainConfig
from mprnet_jax.errors import UserError


class Guard:
    """Counts what goes wrong in a run; the counts are saved with it."""

    def __init__(
        self,
        config: TrainConfig,
        source: Sized,
        log: Callable[[str], None],
        counts: Mapping[str, int] | None = None,
    ):
        """Starts to count.

        Args:
            config: of the run.
            source: the training examples.
            log: prints a line.
            counts: of the run so far.
        """
        self._config, self._examples, self._log = config, len(source), log
        self._logged: set[str] = set()
        self.counts = {"skipped": 0, "skipped_in_a_row": 0, "unreadable": 0} | dict(counts or {})

    def log_unreadable(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logs each example that could not be read once, on the host that tried to.

        Args:
            batch: of `data.batches.TrainingBatches`.

        Returns:
            The batch, in which "unreadable" says which examples were replaced, bool [B].
        """
        messages = batch["unreadable"]
        for message in sorted(set(messages.tolist()) - self._logged - {""}):
            self._logged.add(message)
            self._log(f"{message}; the next picture stands in for it")
        return batch | {"unreadable": messages != ""}

    def check(
        self, step: int, metrics: Mapping[str, float], names: Callable[[], list[str]]
    ) -> None:
        """Counts what went wrong in a step.

        Args:
            step: its number, from 1.
            metrics: of this step.
            names: returns the names of the step's images.

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
                self._log(f"step {step} is skipped: {what}; its images: {', '.join(names())}")
            if counts["skipped_in_a_row"] >= config.optim.max_skipped:
                raise UserError(
                    f"step {step}: {counts['skipped_in_a_row']} steps in a row were skipped, the "
                    f"last with {what}; the checkpoints so far are sound. Start anew in another "
                    "workdir with a lower --config.optim.learning_rate or "
                    "--config.optim.clip_norm=0.01, and from here with --config.init_from=WORKDIR "
                    "if there is a checkpoint"
                )
        # In the first epoch the limit is a share of the whole set.
        seen = max(self._examples, step * config.batch_size)
        if counts["unreadable"] > config.data.max_unreadable * seen:
            raise UserError(
                f"step {step}: {counts['unreadable']} of {seen} pictures could not be read, more "
                f"than data.max_unreadable={config.data.max_unreadable}: replace those named above"
            )
