"""The event files of a run for TensorBoard: curves, and sheets of validation images.

An object in a bucket does not grow: it is replaced whenever something is added. So that objects
stay small, a new one begins after each validation.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mprnet_jax import paths
from mprnet_jax.compat import tensorboardx
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.training.validation import ValidationResult


class Summaries:
    """Writes an event file into a run folder; writes nothing if not `enabled`.

    Everything is written at once: if the disk is full, that call raises UserError.
    """

    def __init__(self, run_folder: Path, start_step: int, enabled: bool):
        self.folder = run_folder
        self._file: tensorboardx.EventFile | None = None
        if enabled:
            self._begin_file(start_step)

    def _begin_file(self, step: int) -> None:
        with self._report_failures():
            # Hides what the run logged after the checkpoint that it now resumes from.
            prefix = str(self.folder / "events")
            self._file = tensorboardx.open_event_file(prefix, step + 1)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each curve; leaves out values that are not finite."""
        if self._file:
            with self._report_failures():
                for name, value in values.items():
                    if np.isfinite(value):
                        self._file.scalar(step, name, value)
                self._file.flush()

    def write_validation(self, step: int, validation: ValidationResult) -> None:
        """Adds the PSNR of each stage, and the sheet of images."""
        curves = zip(validation.titles, validation.mean_psnr)
        self.write_scalars(step, {f"validation_psnr/{title}": score for title, score in curves})
        if self._file:
            with self._report_failures():
                self._file.image(step, "validation", validation.sheet())
                self._file.flush()
            if paths.is_bucket(self.folder):
                self._begin_file(step)

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
        """Closes the file."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
