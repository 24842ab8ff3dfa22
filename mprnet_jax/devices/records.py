"""Measurements that are kept between commands, and messages about long compilations.

Measurements are numbers in a JSON file in the folder of the compile cache; without that folder none
are kept. If the file is damaged or of another version, it is ignored; if it cannot be written,
measurements are not kept. Either prints one warning.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from mprnet_jax.atomic import replacing

FILE = "measured.json"
VERSION = 1
LONG = 3.0  # seconds; longer compilations are announced

_lock = threading.Lock()
_warned: set[str] = set()


def read(key: str) -> dict[str, Any]:
    """Returns the numbers recorded under a key, an empty dict if there are none."""
    return _read_all().get(key, {})


def update(key: str, **numbers: Any) -> None:
    """Adds numbers to those recorded under a key; replaces numbers of the same names.

    Only process 0 writes; in other processes this does nothing.
    """
    path = _path()
    if path is None or jax.process_index():
        return
    with _lock:
        records = _read_all()
        records[key] = {**records.get(key, {}), **numbers}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({"version": VERSION, "records": records}, indent=1))
        except OSError as error:
            _warn_once(f"{path}: cannot be written ({error.strerror}); measurements are not kept")


@contextlib.contextmanager
def announced(what: str, last_seconds: float | None = None) -> Iterator[None]:
    """Prints what is being compiled if the block takes more than `LONG` seconds.

    Only process 0 prints. The time of the block is recorded if `last_seconds` is not given.

    Args:
        what: the program, in words.
        last_seconds: how long compiling it took the last time, 0 if unknown, for callers that
            record the time themselves. By default the time that was recorded here.
    """
    key = f"{jax.devices()[0].device_kind}: compiling {what}"
    if last_seconds is None:
        recorded = read(key).get("seconds")
        last = recorded if isinstance(recorded, int | float) else 0
    else:
        last = last_seconds

    def announce() -> None:
        before = f", which took {last:.0f} s the last time" if last else ""
        tqdm.write(f"Compiling {what}{before} ...")

    timer = threading.Timer(LONG, announce)
    timer.daemon = True
    start = time.perf_counter()
    if jax.process_index() == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.perf_counter() - start
    # Less than half the time means that the program came from the compile cache.
    if last_seconds is None and seconds > max(LONG, last / 2):
        update(key, seconds=round(seconds, 1))


def _path() -> Path | None:
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    # JAX can keep its cache in a bucket, but this module needs a file system.
    return Path(folder) / FILE if folder and "://" not in folder else None


def _read_all() -> dict[str, dict]:
    path = _path()
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
        if content["version"] == VERSION:
            return {key: dict(record) for key, record in content["records"].items()}
        reason = f"of version {content['version']}, not {VERSION}"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"damaged ({type(error).__name__})"
    _warn_once(f"{path}: is {reason} and is ignored; new measurements replace it")
    return {}


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        tqdm.write(message, file=sys.stderr)
