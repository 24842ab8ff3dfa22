"""How a command behaves in a shell.

Ctrl-C ends it in one line and with status 130, characters that the encoding of its output lacks are
escaped, and a reader that goes away (`| head`) ends it quietly. Needs nothing but Python, and is
imported before packages that take seconds.
"""

import contextlib
import errno
import io
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn, TextIO

from mprnet_jax.atomic import remove_temporaries

INTERRUPTED, UNREAD = 130, 141  # as shells report programs that SIGINT or SIGPIPE ended
GRACE = 1.0  # seconds that the main thread has to notice Ctrl-C; it cannot while XLA compiles


def watch_imports() -> None:
    """Makes Ctrl-C end this process at once if it is to become one of the package's commands."""
    arguments = sys.orig_argv
    is_command = sys.argv[:1] == ["-m"] and any(  # while the package of `-m` is being imported
        following.startswith("mprnet_jax.")
        for argument, following in itertools.pairwise(arguments)
        if argument == "-m"
    )
    if is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Runs a command in the block; ends the process for Ctrl-C and for output that is not read."""
    sys.stdout, sys.stderr = _output(sys.stdout), _output(sys.stderr)
    # Whoever started this process may want it to ignore Ctrl-C, as `nohup` does.
    handled = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _end)
    if handled:
        _raise_interrupts()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, for at its exit Python reports errors in many lines
            if handled:
                signal.signal(signal.SIGINT, _end)  # until the process has ended
    except KeyboardInterrupt:
        leave(INTERRUPTED, "interrupted")
    except OutputError as error:
        if error.errno == errno.EPIPE:
            leave(UNREAD)
        leave(2, f"the output cannot be written ({error.strerror})")


def leave(status: int, message: str = "") -> NoReturn:
    """Ends the process now, after a line on stderr; removes files that are not complete.

    Threads are not waited for: they may wait for a disk or a host that will never answer.
    """
    remove_temporaries()
    if message and sys.stderr:
        line = f"{program()}: {' '.join(message.split())}\n"
        with contextlib.suppress(OSError):
            # Not print, which may be what a signal has interrupted.
            os.write(sys.stderr.fileno(), line.encode(sys.stderr.encoding, "backslashreplace"))
    os._exit(status)


def program() -> str:
    """Returns the command's name, such as mprnet_jax.restore."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is None and "-m" in sys.orig_argv[:-1]:
        return sys.orig_argv[sys.orig_argv.index("-m") + 1]
    return module.name if module else sys.argv[0]


def _end(*_: int | FrameType | None) -> None:
    """Handles SIGINT where there is nothing to be cleaned up."""
    leave(INTERRUPTED, "interrupted")


def _raise_interrupts() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt, and end the process if the main thread does not see it.

    Handlers of Python run in the main thread between two of its instructions, so a thread of its
    own waits for the signal. Where a library drops the exception, as from a callback of the garbage
    collector, it is raised again soon. A second Ctrl-C ends the process at once. Has no effect
    while another handler is installed, as in training.
    """
    seen = threading.Event()
    report = sys.unraisablehook

    def interrupt(*_: int | FrameType | None) -> None:
        if seen.is_set():
            _end()
        seen.set()
        raise KeyboardInterrupt

    def watch() -> None:
        while number := os.read(reader, 1):
            in_use = number[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is interrupt
            if in_use and not seen.wait(GRACE):
                _end()

    def repeat(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            return report(dropped)
        seen.clear()
        threading.Timer(0.01, signal.raise_signal, (signal.SIGINT,)).start()

    reader, writer = os.pipe()
    sys.unraisablehook = repeat
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, interrupt)
    threading.Thread(target=watch, name="interrupts", daemon=True).start()


class OutputError(OSError):
    """What a command prints cannot be written."""


class _Output(io.TextIOWrapper):
    """An output whose errors are told from those of other files."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputError(*error.args) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputError(*error.args) from error


def _output(stream: TextIO | None) -> TextIO:
    """Returns an output that escapes characters which its encoding lacks."""
    if stream is None:  # it was closed
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return _Output(
        stream.buffer,
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
