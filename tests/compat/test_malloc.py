"""The limit on malloc's heaps: set where malloc is glibc's, and not missed elsewhere."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mprnet_jax import compat
from mprnet_jax.compat import malloc


@pytest.fixture
def library(monkeypatch):
    """Sets what the C library seems to have."""
    monkeypatch.setattr(compat, "_warned", set())

    def set_library(**functions) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**functions))

    return set_library


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_the_heaps():
    """malloc_info lists the heaps that there are."""
    code = """
import ctypes, sys, threading
from mprnet_jax.compat import malloc
if sys.argv[1:]:
    malloc.limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
barrier = threading.Barrier(6)
def allocate():
    barrier.wait()
    libc.malloc(1000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
stream = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(stream))
libc.fflush(ctypes.c_void_p(stream))
"""

    def heaps(*arguments: str) -> int:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.count(
            "<heap nr="
        )

    assert heaps("limited") <= 2 < heaps()


def test_a_c_library_without_the_option_is_used_as_it_is(library, caplog):
    library()
    malloc.limit_arenas()
    assert not caplog.records


def test_a_limit_that_is_refused_is_warned_of_once(library, caplog):
    library(mallopt=lambda option, value: 0)
    malloc.limit_arenas()
    malloc.limit_arenas()
    (record,) = caplog.records
    assert "set MALLOC_ARENA_MAX=2" in record.getMessage()


def test_the_limit_is_two(library):
    calls = []
    library(mallopt=lambda *arguments: calls.append(arguments) or 1)
    malloc.limit_arenas()
    assert calls == [(-8, 2)]
