"""Processes that start warm: forked from one that has imported what they would import first.

Imports take seconds, half of what a short process takes. What is forked is a process of its own all
the same: it can be killed, limited and signalled, has its own backend of JAX, and ends as Python
ends. It has not imported the module that it runs.

Run as a script, this is the process that is forked from. It has one thread and no backend, since
other threads and their locks do not survive a fork.
"""

import contextlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "mprnet_jax.training.loop",
    "mprnet_jax.restoration.pipeline",
    "mprnet_jax.evaluation.evaluator",
    "ml_collections.config_flags",
    "google.cloud.storage",  # which tensorboardX imports where it is installed
)
NUMBER = struct.Struct("i")


class Server:
    """The process that others are forked from; Linux only."""

    def __init__(self, **environment: str):
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": path} | environment,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        """Ends it; what was forked goes on."""
        self._control.close()
        self._server.wait()

    def start(
        self,
        arguments: list[str],
        environment: dict[str, str],
        stdout: IO,
        stderr: IO,
        cwd: Path | str | None = None,
    ) -> "Process":
        """Starts what `python *arguments` would: with -m MODULE, -c CODE or a script."""
        order = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": environment}
        status, theirs = socket.socketpair()
        with theirs:
            files = [theirs.fileno(), stdout.fileno(), stderr.fileno()]
            socket.send_fds(self._control, [json.dumps(order).encode()], files)
        return Process(status)


class Process:
    """A process that was forked, much as `subprocess.Popen`."""

    def __init__(self, status: socket.socket):
        self._status = status
        self.pid = self._receive(timeout=60)
        self.returncode: int | None = None

    def _receive(self, timeout: float | None) -> int:
        self._status.settimeout(timeout)
        return NUMBER.unpack(self._status.recv(NUMBER.size))[0]

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            try:
                self.returncode = self._receive(timeout)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout) from None
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve(control: socket.socket) -> dict:
    """Forks a process for each order, and returns the order in that process."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    running = {}  # by descriptors of processes
    while True:
        for key, _ in selector.select():
            if key.fd in running:
                selector.unregister(key.fd)
                pid, status = running.pop(key.fd)
                os.close(key.fd)
                returncode = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with status, contextlib.suppress(BrokenPipeError):  # nobody waits for it
                    status.send(NUMBER.pack(returncode))
                continue
            order, files, *_ = socket.recv_fds(control, 2**20, 3)
            if not order:
                os._exit(0)
            status = socket.socket(fileno=files[0])
            pid = os.fork()
            if not pid:
                os.dup2(files[1], 1)
                os.dup2(files[2], 2)
                for file in (*files[1:], *running):
                    os.close(file)
                for one in (selector, control, status, *(status for _, status in running.values())):
                    one.close()
                return json.loads(order)
            for file in files[1:]:
                os.close(file)
            status.send(NUMBER.pack(pid))
            descriptor = os.pidfd_open(pid)
            running[descriptor] = pid, status
            selector.register(descriptor, selectors.EVENT_READ)


def run(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Runs what Python would have run."""
    os.chdir(cwd)
    for name, value in environment.items():
        if name.startswith("JAX_") and value != os.environ.get(name):
            current = getattr(jax.config, name.lower())  # read when it was imported
            jax.config.update(name.lower(), float(value) if isinstance(current, float) else value)
    for stream in (sys.stdout, sys.stderr):
        encoding = environment.get("PYTHONIOENCODING", stream.encoding)
        stream.reconfigure(encoding=encoding, errors=stream.errors)
    os.environ.clear()
    os.environ.update(environment)
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [path for path in paths if path not in sys.path]
    match arguments:
        case "-m", module, *rest:
            sys.path.insert(0, cwd)
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case "-c", code, *rest:
            sys.path.insert(0, "")
            sys.argv = ["-c", *rest]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(code, vars(sys.modules["__main__"]))
        case script, *rest:
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    import gc

    gc.set_threshold(50_000)  # as in conftest.py
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # thread pools of libraries are empty then
    import jax

    for module in IMPORTED:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "another thread would not survive a fork"
    os.sched_setaffinity(0, cores)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        order = serve(control)
    run(**order)
