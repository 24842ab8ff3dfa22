"""gcsfs as the file system of `gs://`, with the errors and the care of a disk."""

import base64
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import gcsfs
import google_crc32c
from gcsfs.retry import ChecksumError, HttpError, NonRetryableError
from google.auth.exceptions import GoogleAuthError

ERRORS = (aiohttp.ClientError, GoogleAuthError, ChecksumError, HttpError, NonRetryableError)
LAST_LINE = b"--==0==--"  # of what gcsfs sends as multipart/related (RFC 2046, section 5.1.1)
STALLED = 30  # seconds without a byte, after which a request is sent again


def register() -> None:
    """Makes `FileSystem` that of `gs://` for etils, Orbax and fsspec; again changes nothing."""
    fsspec.register_implementation("gcs", FileSystem, clobber=True)
    fsspec.register_implementation("gs", FileSystem, clobber=True)
    # They log what they raise, with tracebacks, which hides our one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    logging.getLogger("google.auth").setLevel(logging.ERROR)


class FileSystem(gcsfs.GCSFileSystem):
    """gcsfs's file system, as several processes that must not lose anything need it.

    Reason: gcsfs takes an answer like "no permission" for "does not exist", with which a run would
        begin anew; makes a bucket that is missing; keeps lists of folders that other hosts change;
        does not check what it has written; waits five minutes for an answer, and only once; ends a
        small object with a bare line feed, with which servers take a carriage return before it for
        the end of the line; and raises errors that are no OSError.
    Tried with: gcsfs 2026.10.
    Upstream: none known.
    Remove when: each of these is an option. All but `_request`, `_exists`, `_isdir` and `_mkdir`
        are; if gcsfs renames those, tests/compat/test_gcsfs.py fails.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)
        settings = {"use_listings_cache": False, "consistency": "md5", "requests_timeout": timeout}
        super().__init__(*args, **settings | kwargs)

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        content = kwargs.get("data")
        if isinstance(content, bytes) and content.endswith(b"\n" + LAST_LINE):
            kwargs["data"] = content.removesuffix(b"\n" + LAST_LINE) + b"\r\n" + LAST_LINE
        with report_errors():
            return await super()._request(method, path, *args, **kwargs)

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        try:
            await self._info(path, **kwargs)
        except FileNotFoundError:
            return False
        return True

    async def _isdir(self, path: str) -> bool:
        try:
            return (await self._info(path))["type"] == "directory"
        except FileNotFoundError:
            return False

    async def _mkdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Does nothing: folders come with what is in them."""

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Does nothing, likewise."""

    mkdir = fsspec.asyn.sync_wrapper(_mkdir)
    makedirs = fsspec.asyn.sync_wrapper(_makedirs)


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Turns the errors of requests, after all attempts, into OSError."""
    try:
        yield
    except ERRORS as error:
        text = str(error) or type(error).__name__
        if getattr(error, "code", None) in (401, "401") or isinstance(error, GoogleAuthError):
            text += "; log in with: gcloud auth application-default login"
        raise OSError(text) from error


def upload(file: Path, target: Any) -> None:
    """Copies a file into a bucket, as a whole object or not at all; raises OSError."""
    with report_missing_bucket(target):
        fsspec.filesystem("gcs").put_file(os.fspath(file), os.fspath(target))


def write(target: Any, content: bytes) -> None:
    """Writes an object, whole or not at all; raises OSError."""
    with report_missing_bucket(target):
        fsspec.filesystem("gcs").pipe_file(os.fspath(target), content)


@contextlib.contextmanager
def report_missing_bucket(target: Any) -> Iterator[None]:
    """As `report_errors`, for a block that writes."""
    try:
        with report_errors():
            yield
    except FileNotFoundError as error:
        raise OSError(f"there is no bucket {os.fspath(target).split('/')[2]}") from error


def download(source: Any, target: Path) -> None:
    """Copies an object to a file, and checks it by the hash that the bucket has; raises OSError."""
    with report_errors():
        bucket = fsspec.filesystem("gcs")
        # Objects that were put together of parts have no MD5, which gcsfs would check.
        bucket.get_file(os.fspath(source), os.fspath(target), consistency="none")
        digest = google_crc32c.Checksum()
        with open(target, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if base64.b64encode(digest.digest()).decode() != bucket.info(os.fspath(source))["crc32c"]:
            raise OSError("its hash is not that in the bucket; try again")


def hashes(folder: Any) -> dict[str, str]:
    """Returns the hash of each object below an address, by the rest of its key; raises OSError."""
    with report_errors():
        found = fsspec.filesystem("gcs").find(os.fspath(folder), detail=True)
    start = len(os.fspath(folder).removeprefix("gs://")) + 1
    return {name[start:]: info["crc32c"] for name, info in found.items()}


def move_folder(source: Any, target: Any) -> None:
    """Copies all objects below an address to another, then removes them; raises OSError."""
    with report_errors():
        bucket = fsspec.filesystem("gcs")
        bucket.copy(os.fspath(source), os.fspath(target), recursive=True)
        bucket.rm(os.fspath(source), recursive=True)
