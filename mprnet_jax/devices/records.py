"""Numbers measured on this machine that later commands start from, and word of long compiles.

They lie in one JSON file in the folder of the compile cache; without such a folder they are
forgotten. A file that is damaged or of another version is ignored, and a disk that takes no file is
told of once.
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
LONG = 3.0  # seconds; compiling that takes longer is announced

_lock = threading.Lock()
_told: set[str] = set()


def read(key: str) -> dict[str, Any]:
    """The numbers kept under a key; empty if there are none."""
    return _read_all().get(key, {})


def update(key: str, **numbers: Any) -> None:
    """Adds numbers to those kept under a key, replacing those of the same names.

    Of several processes the first one does.
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
            _tell(f"{path}: cannot be written ({error.strerror}); what is measured is not kept")


@contextlib.contextmanager
def announced(what: str, expected: float | None = None) -> Iterator[None]:
    """For a block that compiles: says so where that takes more than `LONG` seconds.

    Args:
        what: is compiled.
        expected: how many seconds it took the last time; by default what is kept of this `what`.
    """
    key = f"{jax.devices()[0].device_kind}: compiling {what}"
    kept = read(key).get("seconds")
    last = expected or (kept if isinstance(kept, int | float) else 0)

    def say() -> None:
        before = f", which took {last:.0f} s the last time" if last else ""
        tqdm.write(f"Compiling {what}{before} ...")

    timer = threading.Timer(LONG, say)
    timer.daemon = True
    start = time.perf_counter()
    if jax.process_index() == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.perf_counter() - start
    # Loading what was compiled before takes less, and is no news.
    if expected is None and seconds > max(LONG, last / 2):
        update(key, seconds=round(seconds, 1))


def _path() -> Path | None:
    folder = jax.config.jax_compilation_cache_dir
    # A bucket's programs can be read by JAX alone.
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
    _tell(f"{path}: is {reason} and is ignored; it is replaced by what is measured now")
    return {}


def _tell(message: str) -> None:
    if message not in _told:
        _told.add(message)
        tqdm.write(message, file=sys.stderr)
