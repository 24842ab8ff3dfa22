"""Patches of tensorboardX: its imports, errors where they occur, objects in buckets."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mprnet_jax.compat import warn_once
from mprnet_jax.errors import one_line

LIBRARY = "tensorboardX"  # on PyPI


def set_variable_early() -> None:
    """Sets the variable that tensorboardX sets when it is imported, unless it is set.

    Reason: tensorboardX is imported when training begins. Threads of XLA and TensorStore read the
        environment then, and a new variable moves it: a run that resumed ended with a segmentation
        fault in `getenv`. So the variable is set when this module is imported.
    Tried with: tensorboardX 2.6.2 to 2.6.5.
    Upstream: none known.
    Remove when: importing tensorboardX sets no variable.
    """
    os.environ.setdefault("CRC32C_SW_MODE", "auto")


set_variable_early()


def open_event_file(prefix: str, first_step: int) -> "EventFile | None":
    """Creates an event file; returns None if tensorboardX has changed.

    Args:
        prefix: path and beginning of the file's name.
        first_step: TensorBoard ignores this and later steps in earlier files of the folder.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        return EventFile(prefix, first_step)
    except (ImportError, AttributeError, TypeError) as error:
        warn_once(LIBRARY, f"no event files for TensorBoard are written ({one_line(error)})")
        return None


def import_without_torch() -> None:
    """Imports tensorboardX as if PyTorch were not installed.

    Reason: tensorboardX imports PyTorch, which takes seconds, only to accept its tensors.
    Tried with: tensorboardX 2.6.2 to 2.6.5. If the patch has no effect any more, training starts
        these seconds later.
    Upstream: none known.
    Remove when: tensorboardX imports PyTorch only when it is given a tensor.
    """
    hidden = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


class EventFile:
    """An event file that is written by the calling thread.

    Reason: the public `SummaryWriter` writes in a thread of its own, where the error of a full disk
        is lost. So this uses the classes of which it consists.
    Tried with: tensorboardX 2.6.2 to 2.6.5.
    Upstream: none known.
    Remove when: `SummaryWriter` raises the errors of its thread.
    """

    def __init__(self, prefix: str, first_step: int):
        import_without_torch()
        from tensorboardX import record_writer, summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        record_writer.register_writer_factory("gs", Objects)

        self._summary, self._event = summary, Event
        # Called here so that, if tensorboardX has changed, `open_event_file` notices and warns.
        summary.scalar("", 0.0)
        summary.image("", np.zeros((1, 1, 3), np.uint8), dataformats="HWC")
        summary.text("", "")
        # Without a suffix, two files created in the same second would have the same name.
        self._writer = EventsWriter(prefix, f".{time.time_ns()}")
        self._write(first_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in scalars.items():
            self._write(step, summary=self._summary.scalar(name, value))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds images, uint8 [N, H, W, 3] under each name."""
        for name, batch in images.items():
            for number, image in enumerate(batch):
                title = f"{name}/{number}" if len(batch) > 1 else name
                self._write(step, summary=self._summary.image(title, image, dataformats="HWC"))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Adds texts, which are shown as Markdown."""
        for name, text in texts.items():
            self._write(step, summary=self._summary.text(name, text))

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))

    def flush(self) -> None:
        """Writes the buffered events to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class Objects:
    """How tensorboardX writes to addresses `gs://`.

    Reason: tensorboardX's own writer asks for credentials where none are needed, and its errors are
        no OSError. The registry is public, though no document names it.
    Tried with: tensorboardX 2.6.2 to 2.6.5.
    Upstream: none known.
    Remove when: tensorboardX writes through fsspec.
    """

    @staticmethod
    def open(path: str) -> "Object":
        """Begins an object; called by tensorboardX."""
        return Object(path)


class Object:
    """What is written to an object in a bucket; each `flush` replaces the object as a whole."""

    def __init__(self, path: str):
        self._path, self._content = path, bytearray()

    def write(self, data: bytes) -> None:
        """Adds to what the next `flush` writes."""
        self._content += data

    def flush(self) -> None:
        """Writes all of it; raises OSError."""
        from mprnet_jax.compat import gcsfs

        gcsfs.write(self._path, bytes(self._content))

    def close(self) -> None:
        """Called by tensorboardX after a last `flush`."""
