"""What a run shows: event files for TensorBoard, tables and sheets."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mprnet_jax.errors import UserError
from mprnet_jax.imageio.sheets import make_sheet, write_png

STAGES = ("degraded", "stage1", "stage2", "stage3")


@dataclass
class Validation:
    """What restoring the held-out pairs gave.

    Attributes:
        names: of the pairs.
        psnr: dB, [4, N], of the degraded images and of stages 1, 2, 3.
        shown: the first few pairs, as lists of degraded, stage 1, stage 2, stage 3, target images.
        complete: whether no held-out pair is missing, since all could be read.
    """

    names: Sequence[str]
    psnr: np.ndarray
    shown: list[list[np.ndarray]]
    complete: bool = True

    @property
    def mean_psnr(self) -> np.ndarray:
        """Means over the pairs, dB, [4]."""
        return self.psnr.mean(axis=1)

    @property
    def score(self) -> float:
        """Mean PSNR of the last stage, dB: what the best checkpoint is chosen by."""
        return float(self.mean_psnr[-1])

    def table(self, most: int = 8) -> str:
        """Held-out PSNR before and after, by image and on average, as Markdown."""
        rows = [*zip(self.names, self.psnr.T)][:most]
        if len(self.names) > most:
            rows.append((f"({len(self.names) - most} more)", None))
        rows.append(("mean", self.mean_psnr))
        lines = [
            f"| {'held-out PSNR, dB':20} | before | stage 1 | stage 2 | stage 3 |   gain |",
            f"|:{'-' * 20}-|-------:|--------:|--------:|--------:|-------:|",
        ]
        for name, scores in rows:
            if scores is None:
                lines.append(f"| {name:20} |        |         |         |         |        |")
            else:
                before, stage1, stage2, stage3 = scores
                lines.append(
                    f"| {name:20} | {before:6.2f} | {stage1:7.2f} | {stage2:7.2f} | {stage3:7.2f} "
                    f"| {stage3 - before:+6.2f} |"
                )
        return "\n".join(lines)

    def sheet(self) -> np.ndarray:
        """degraded | stage 1 | stage 2 | stage 3 | target of the pairs shown, uint8."""
        return make_sheet(
            [
                [
                    (f"{title} {score:.2f} dB", image)
                    for title, score, image in zip(STAGES, scores, images[:-1])
                ]
                + [("target", images[-1])]
                for images, scores in zip(self.shown, self.psnr.T)
            ]
        )

    def write_before_after(self, path: Path) -> None:
        """degraded | restored | target of the pairs shown, as a PNG."""
        rows = [
            [
                (f"before, {scores[0]:.2f} dB", images[0]),
                (f"after, {scores[3]:.2f} dB", images[3]),
                ("target", images[4]),
            ]
            for images, scores in zip(self.shown, self.psnr.T)
        ]
        write_png(path, make_sheet(rows))


def import_tensorboardx() -> None:
    """Imports tensorboardX as if PyTorch were not installed: importing that too takes seconds."""
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


class Summaries:
    """An event file for TensorBoard in a run folder; nothing is written where `enabled` is false.

    It is written at once, so that a disk that is full is found out here (UserError), not in a
    thread that nobody watches.
    """

    def __init__(self, run_folder: Path, first_step: int, enabled: bool):
        self._folder = run_folder
        self._writer = None
        if enabled:
            import_tensorboardx()
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog

            with self._failures_told():
                # By default two files of one second would have one name.
                self._writer = EventsWriter(str(run_folder / "events"), f".{time.time_ns()}")
                # Hides what an interrupted run logged after the checkpoint it resumes from.
                start = SessionLog(status=SessionLog.START)
                self._write(first_step + 1, session_log=start)
                self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each curve; values that are not finite leave a gap."""
        if self._writer:
            from tensorboardX import summary

            with self._failures_told():
                for name, value in values.items():
                    if np.isfinite(value):
                        self._write(step, summary=summary.scalar(name, value))
                self._writer.flush()

    def validation(self, step: int, validation: Validation) -> None:
        """Adds PSNR by stage, and the sheet."""
        curves = zip(STAGES, validation.mean_psnr)
        self.scalars(step, {f"validation_psnr/{title}": score for title, score in curves})
        if self._writer:
            from tensorboardX import summary

            sheet = summary.image("validation", validation.sheet(), dataformats="HWC")
            with self._failures_told():
                self._write(step, summary=sheet)
                self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._folder}: its event file for TensorBoard cannot be written "
                f"({error.strerror}); the checkpoints are kept. Mend that, then start the same "
                "command again"
            ) from error

    def close(self) -> None:
        """Lets go; all is written."""
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()
