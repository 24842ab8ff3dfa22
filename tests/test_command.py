"""How commands end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = r"""
import ctypes, sys
from mprnet_jax import command

def main():
    print("na\u00efve \u5199\u771f \udcff", flush=True)
    match sys.stdin.readline().strip():
        case "print":
            print("much\n" * 100_000)
        case "compile":  # the main thread is not in Python meanwhile
            ctypes.CDLL(None).sleep(60)
    sys.stdin.read()

command.run(main)
"""


@pytest.fixture
def start():
    def begin(*arguments: str, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *(arguments or ("-c", SCRIPT))],
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return begin


@pytest.mark.parametrize("where", ["python", "compile"])
def test_ctrl_c_is_one_line_and_status_130_and_odd_names_are_escaped(start, where):
    process = start(PYTHONIOENCODING="cp1252")
    assert process.stdout.readline() == b"na\xefve \\u5199\\u771f \\udcff\n"
    process.stdin.write(f"{where}\n".encode())
    process.stdin.flush()
    time.sleep(0.2)  # it may not be there yet: then it ends in the same way
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, b"")
    assert errors.decode().split(": ", 1)[1].strip() == "interrupted"


def test_ctrl_c_while_packages_are_imported(start):
    process = start("-X", "importtime", "-m", "mprnet_jax.restore")
    while b"mprnet_jax.config" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    others = [line for line in errors.splitlines() if not line.startswith(b"import time:")]
    assert others == [b"mprnet_jax.restore: interrupted"]


def test_a_closed_pipe_ends_a_command_quietly(start):
    process = start()
    assert process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b"print\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=30), errors) == (141, b"")
