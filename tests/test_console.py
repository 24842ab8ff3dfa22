"""Commands in a shell: Ctrl-C, what is printed in other encodings, and pipes that are closed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mprnet_jax"
# The module without the package, whose import takes seconds.
START = f"""
import hashlib, os, signal, sys, time, types
package = sys.modules["mprnet_jax"] = types.ModuleType("mprnet_jax")
package.__path__ = [{str(PACKAGE)!r}]
from mprnet_jax import console
from mprnet_jax.atomic import replacing
sys.argv = ["command"]
def begun():
    print("begun", file=sys.stderr, flush=True)
"""
GUARDED = START + "with console.guarded():\n"


@pytest.fixture
def start():
    """Starts Python: start(code, shell="", **environment); `shell` follows in the command line."""
    with contextlib.ExitStack() as stack:

        def begin(code: str, shell: str = "", **environment: str) -> subprocess.Popen:
            process = subprocess.Popen(
                ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, code],
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)  # closes its pipes
            stack.callback(process.kill)
            return process

        yield begin


def interrupt(process: subprocess.Popen) -> None:
    """Sends Ctrl-C after the process has said that it has begun."""
    assert process.stderr.readline() == "begun\n"
    process.send_signal(signal.SIGINT)


BUSY = {
    "in Python": "time.sleep(60)",
    # Python's handlers wait until it returns, as for a compiler.
    "in native code": "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)",
}


@pytest.mark.parametrize("place", BUSY)
def test_ctrl_c_is_one_line_and_leaves_no_part_of_a_file(start, place, tmp_path):
    code = f"""
    with replacing({str(tmp_path / "photo.png")!r}) as temporary:
        temporary.write_text("half")
        begun()
        {BUSY[place]}
"""
    process = start(GUARDED + code)
    interrupt(process)
    assert process.communicate(timeout=30)[1] == "command: interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_a_callback_is_not_lost(start, tmp_path):
    code = f"""
    class Slow:
        def __del__(self): begun(); time.sleep(60)
    with replacing({str(tmp_path / "photo.png")!r}) as temporary:
        temporary.write_text("half")
        Slow()
        time.sleep(60)
"""
    process = start(GUARDED + code)
    interrupt(process)
    assert process.communicate(timeout=30)[1] == "command: interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_ends_what_takes_long_to_end(start):
    process = start(
        GUARDED + "    try: begun(); time.sleep(60)\n    finally: begun(); time.sleep(60)"
    )
    for _ in range(2):
        interrupt(process)
    assert process.communicate(timeout=30)[1] == "command: interrupted\n"
    assert process.returncode == 130


def test_ctrl_c_that_is_to_be_ignored_is_ignored(start):
    code = GUARDED + "    begun(); time.sleep(0.3); print('done')"
    process = start(f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{code}")
    interrupt(process)
    assert process.communicate(timeout=30) == ("done\n", "")


def test_a_handler_of_the_commands_own_is_not_overruled(start):
    """As that of training, which saves first, also where a program takes long to compile."""
    own = "signal.signal(signal.SIGINT, lambda *_: print('saved'))"
    code = f"    {own}; begun(); hashlib.pbkdf2_hmac('sha256', b'', b'', 3_000_000); print('done')"
    process = start(GUARDED + code)
    interrupt(process)
    assert process.communicate(timeout=60) == ("saved\ndone\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("cp1252", "\\u5199\\u771f é"), ("ascii", "\\u5199\\u771f \\xe9"), ("utf-8", "写真 é")],
)
def test_characters_that_an_encoding_lacks_are_escaped(start, encoding, expected):
    code = "    for stream in (sys.stdout, sys.stderr): print('写真 é', file=stream)"
    process = start(GUARDED + code, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    out, err = (process.stdout.buffer.read(), process.stderr.buffer.read())
    assert process.wait() == 0
    assert out.decode(encoding) == err.decode(encoding) == f"{expected}\n"


def test_names_that_are_no_text_are_escaped(start):
    process = start(GUARDED + "    print(os.fsdecode(b'na\\xefve.png'))", PYTHONUTF8="1")
    assert process.communicate() == ("na\\udcefve.png\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the last flush fails, or the print
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_ends_it_quietly(start, stream, unbuffered):
    code = f"    begun(); time.sleep(0.2); print('a line', file=sys.{stream})"
    process = start(GUARDED + code, PYTHONUNBUFFERED=unbuffered)
    assert process.stderr.readline() == "begun\n"
    getattr(process, stream).close()
    if stream == "stdout":
        assert process.stderr.read() == ""
    assert process.wait() == 141


def test_a_broken_pipe_of_something_else_is_a_defect(start):
    process = start(GUARDED + "    raise BrokenPipeError('planted')")
    assert "BrokenPipeError: planted" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_full_disk_is_one_line(start, unbuffered):
    process = start(GUARDED + "    print('a line')", "> /dev/full", PYTHONUNBUFFERED=unbuffered)
    expected = "command: the output cannot be written (No space left on device)\n"
    assert process.communicate()[1] == expected
    assert process.returncode == 2


def test_closed_outputs_are_no_error(start, tmp_path):
    code = f"    print('a'); print('b', file=sys.stderr); open({str(tmp_path / 'done')!r}, 'w')"
    process = start(GUARDED + code, ">&- 2>&-")
    process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_ctrl_c_while_packages_are_imported_is_one_line():
    with subprocess.Popen(
        [sys.executable, "-m", "mprnet_jax.restore", "--input=photo.png"],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "mprnet_jax.restore: interrupted\n"
        assert process.returncode == 130
