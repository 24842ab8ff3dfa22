"""How commands end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys
from mprnet_jax import command

def main():
    print("na\\u00efve \\u5199\\u771f \\udcff", flush=True)
    if sys.stdin.read():
        print("much\\n" * 100_000)
    else:
        import time
        time.sleep(60)

command.run(main)
"""


@pytest.fixture
def start():
    def begin(**environment) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT.replace("\\\\", "\\")],
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return begin


def test_ctrl_c_is_one_line_and_status_130_and_odd_names_are_escaped(start):
    process = start(PYTHONIOENCODING="cp1252")
    assert process.stdout.readline() == b"na\xefve \\u5199\\u771f \\udcff\n"
    process.stdin.close()
    process.stdin = None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, b"")
    assert errors.decode().split(": ", 1)[1] == "interrupted\n"


def test_a_closed_pipe_ends_a_command_quietly(start):
    process = start()
    assert process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b"go on")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), errors) == (141, b"")
