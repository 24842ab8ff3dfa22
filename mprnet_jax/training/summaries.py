"""Where a run's metrics go: its event files for TensorBoard, and writers of the user's own.

An object in a bucket does not grow: it is replaced whenever something is added. So that objects
stay small, a new one begins after each validation.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mprnet_jax import paths
from mprnet_jax.compat import tensorboardx
from mprnet_jax.config import TrainConfig
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.training.validation import ValidationResult


class MetricWriter(Protocol):
    """Takes the metrics of a run; the event file is one.

    `clu.metric_writers.MetricWriter` has these methods among others, so clu's writers will do.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes a point of each curve; they are finite."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Takes images, uint8 [N, H, W, 3] under each name."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Takes texts in Markdown."""

    def flush(self) -> None:
        """Is called whenever something was written."""

    def close(self) -> None:
        """Is called at the end of the run, also if that is an error."""


class Summaries:
    """Writes metrics to a run's event file and to other writers; nothing if not `enabled`.

    Everything is written at once: if the disk is full, that call raises UserError. Errors of the
    other writers are raised as they are.
    """

    def __init__(
        self,
        run_folder: Path,
        start_step: int,
        enabled: bool,
        others: Sequence[MetricWriter] = (),
    ):
        self.folder = run_folder
        self._file: tensorboardx.EventFile | None = None
        if enabled:
            self._begin_file(start_step)
        self._others = others if enabled else ()

    def _begin_file(self, step: int) -> None:
        with self._report_failures():
            # Hides what the run logged after the checkpoint that it now resumes from.
            prefix = str(self.folder / "events")
            self._file = tensorboardx.open_event_file(prefix, step + 1)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each curve; leaves out values that are not finite."""
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        self._write(lambda writer: writer.write_scalars(step, finite))

    def write_validation(self, step: int, validation: ValidationResult) -> None:
        """Adds the PSNR of each stage, and the sheet of images."""
        curves = zip(validation.titles, validation.mean_psnr)
        self.write_scalars(step, {f"validation_psnr/{title}": score for title, score in curves})
        sheet = {"validation": validation.sheet()[None]}
        self._write(lambda writer: writer.write_images(step, sheet))
        if self._file and paths.is_bucket(self.folder):
            self._begin_file(step)

    def write_config(self, step: int, config: TrainConfig) -> None:
        """Adds the config as text."""
        text = f"```json\n{json.dumps(dataclasses.asdict(config), indent=2)}\n```"
        self._write(lambda writer: writer.write_texts(step, {"config": text}))

    def _write(self, write: Callable[[MetricWriter], None]) -> None:
        if self._file:
            with self._report_failures():
                write(self._file)
                self._file.flush()
        for writer in self._others:
            write(writer)
            writer.flush()

    @contextlib.contextmanager
    def _report_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: its event file for TensorBoard cannot be written "
                f"({error.strerror or one_line(error)}); the checkpoints are kept. Repair that, "
                "then start the same command again"
            ) from error

    def close(self) -> None:
        """Closes all writers."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        for writer in self._others:
            writer.close()
