"""Counts skipped steps and unreadable examples, and ends a run that has too many of them."""

from collections.abc import Callable, Mapping

import numpy as np

from mprnet_jax.config import TrainConfig
from mprnet_jax.devices import hosts
from mprnet_jax.errors import UserError


class Guard:
    """Counts skipped steps and unreadable examples of a run.

    Attributes:
        counts: what checkpoints save of it. "skipped" steps in all; "skipped_in_a_row" up to the
            last step; "unreadable", how often an example could not be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_examples: int,
        log: Callable[[str], None],
        counts: Mapping[str, int] | None = None,
    ):
        """Starts to count.

        Args:
            config: of the run.
            num_examples: size of the training set.
            log: prints a line.
            counts: those of the checkpoint that the run starts from; by default all are 0.
        """
        self._config, self._num_examples, self._log = config, num_examples, log
        self._logged: set[str] = set()
        self.counts = {"skipped": 0, "skipped_in_a_row": 0, "unreadable": 0} | dict(counts or {})

    def log_unreadable(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logs the error messages in `batch["unreadable"]`, strings [B], each message once.

        Each process logs those of its own examples.

        Args:
            batch: of `data.batches.TrainingBatches`. A message is empty if the example was read.

        Returns:
            The batch with a bool mask [B] instead, True where an example could not be read.
        """
        messages = batch["unreadable"]
        for message in sorted(set(messages.tolist()) - self._logged - {""}):
            self._logged.add(message)
            self._log(f"{message}; the next picture stands in for it")
        return batch | {"unreadable": messages != ""}

    def count_and_check(
        self, step: int, metrics: Mapping[str, float], names: Callable[[], list[str]]
    ) -> None:
        """Counts what went wrong in a step; ends the run if that is too much.

        Args:
            step: its number, from 1.
            metrics: of this step: "skipped", "unreadable", "loss" and "gradient_norm".
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
            if hosts.is_main_process():
                self._log(f"step {step} is skipped: {what}; its images: {', '.join(names())}")
            if counts["skipped_in_a_row"] >= config.optim.max_skipped:
                raise UserError(
                    f"step {step}: {counts['skipped_in_a_row']} steps in a row were skipped, the "
                    f"last with {what}; the newest checkpoint may already have diverged. Train "
                    "again in a new workdir with a lower --config.optim.learning_rate or "
                    "--config.optim.clip_norm=0.01. To start from this run's parameters, add "
                    "--config.init_from=WORKDIR"
                )
        # In the first epoch the limit is a share of the whole set: after few steps one unreadable
        # example would exceed a share of the examples drawn so far.
        seen = max(self._num_examples, step * config.batch_size)
        if counts["unreadable"] > config.data.max_unreadable * seen:
            raise UserError(
                f"step {step}: {counts['unreadable']} reads of pictures failed, more than "
                f"data.max_unreadable={config.data.max_unreadable} of {seen}: replace those named "
                "in the log"
            )
