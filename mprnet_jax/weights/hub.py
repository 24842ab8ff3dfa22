"""Fetches weights from the Hugging Face Hub and publishes them there, for addresses `hf://`.

    hf://OWNER/NAME[@REVISION][/FILE]

A revision is a branch, a tag or a commit; without one it is the newest commit. Without a file it is
`model.safetensors`. The library `huggingface_hub` does all of the work, with its cache and its
variables (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). Nothing here is imported or asks the
network unless such an address is given.
"""

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from absl import logging

from mprnet_jax.errors import UserError, one_line
from mprnet_jax.version import __version__
from mprnet_jax.weights.pth import EXTENSIONS

PREFIX = "hf://"
COMMIT = re.compile("[0-9a-f]{40}")
WEIGHTS = "model.safetensors"
LOGIN = "`hf auth login`"
LIBRARY = {"library_name": "mprnet_jax", "library_version": __version__}  # tells the Hub who asks
NOT_PUBLISHED = "; nothing was published"


def is_address(path: Any) -> bool:
    """Returns whether weights are named by an address of the Hub."""
    return isinstance(path, str) and path.startswith(PREFIX)


def fetch(address: str) -> Path:
    """Returns the file in the cache that an address names, after downloading it if it is not there.

    A commit is taken from the cache without a request. Other revisions may move, so the Hub is
    asked which commit they are, and a line says it; where the Hub does not answer it is the one
    that they were last.

    Raises:
        UserError: if the file cannot be had, or is another than the Hub has by its SHA-256.
    """
    hub, where = parse(address)
    file = where.path_in_repo or WEIGHTS
    if not file.endswith(".safetensors"):
        raise UserError(f"{address}: is no .safetensors file; {convert(where.id, file)}")
    with reporting(address):
        path = cached(hub, where, file) if COMMIT.fullmatch(where.revision or "") else None
        path = path or download(hub, where, file, address)
        check_hash(path)
    commit = path.parents[len(PurePosixPath(file).parts) - 1].name
    if where.revision != commit:
        logging.warning("%s: is commit %s", address, commit)
    return path


def cached(hub: ModuleType, where: Any, file: str) -> Path | None:
    """Returns a file of the cache, or None if it is not there; makes no request."""
    found = hub.try_to_load_from_cache(where.id, file, revision=where.revision)
    return Path(found) if isinstance(found, str) else None


def download(hub: ModuleType, where: Any, file: str, address: str) -> Path:
    """Returns a file as the Hub has it now, or as the cache has it if there is no answer."""
    try:
        return Path(hub.hf_hub_download(where.id, file, revision=where.revision, **LIBRARY))
    except hub.errors.RemoteEntryNotFoundError as error:
        names = hub.HfApi(**LIBRARY).list_repo_files(where.id, revision=where.revision)
        raise UserError(f"{address}: {missing(where.id, file, names)}") from error
    except hub.errors.HTTPError as error:
        # The library looks into the cache itself, but not for all errors of a connection.
        path = cached(hub, where, file)
        if path is None or isinstance(error, hub.errors.HfHubHTTPError):
            raise
        return path


def check_may_publish(address: str, *, overwrite: bool) -> None:
    """Checks what can be known before work: the address, a login and that no weights are replaced.

    Raises:
        UserError: if weights cannot be published there, or others are there and not to be replaced.
    """
    hub, where = parse(address)
    if where.revision or where.path_in_repo:
        raise UserError(f"{address}: weights are published to a repository: {PREFIX}OWNER/NAME")
    if hub.get_token() is None:
        raise UserError(f"{address}: publishing needs a token that may write; {LOGIN} first")
    with reporting(address, NOT_PUBLISHED):
        exists = hub.HfApi(**LIBRARY).file_exists(where.id, WEIGHTS)
    if exists and not overwrite:
        raise UserError(
            f"{address}: holds weights already; use another name, or --overwrite, which makes "
            "a new commit"
        )


def publish(address: str, contents: Mapping[str, bytes]) -> str:
    """Makes one commit with some files, in a new private repository if there is none.

    Args:
        address: of the repository, as `check_may_publish` takes it.
        contents: the files by name.

    Returns:
        The address of the commit's weights.

    Raises:
        UserError: if that fails. The repository's files are as they were then, unless the error
            says that this is not known.
    """
    hub, where = parse(address)
    api = hub.HfApi(**LIBRARY)
    operations = [hub.CommitOperationAdd(name, content) for name, content in contents.items()]
    with reporting(address, NOT_PUBLISHED):
        api.create_repo(where.id, private=True, exist_ok=True)
        api.preupload_lfs_files(where.id, operations)
    with reporting(address, "; whether it was published can be seen on its page"):
        try:
            commit = api.create_commit(where.id, operations, commit_message="Weights of mprnet_jax")
        except (hub.errors.HfHubHTTPError, ValueError) as error:  # the Hub has answered: no
            raise UserError(f"{address}: {explain(error)}{NOT_PUBLISHED}") from error
    return f"{PREFIX}{where.id}@{commit.oid}"


def parse(address: str) -> tuple[ModuleType, Any]:
    """Returns the library, and an address as its `HfUri`; raises UserError if it is none."""
    # Else each process makes a request of its own, to tell the Hub what has started it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            f"{address}: is on the Hugging Face Hub, which needs: pip install 'mprnet-jax[hub]'"
        ) from error
    try:
        where = huggingface_hub.parse_hf_uri(address)
        if where.type != "model":
            raise ValueError(f"a {where.type}, no model")
    except ValueError as error:
        raise UserError(
            f"{address}: is not {PREFIX}OWNER/NAME[@REVISION][/FILE] ({one_line(error)})"
        ) from error
    return huggingface_hub, where


@contextlib.contextmanager
def reporting(address: str, then: str = "") -> Iterator[None]:
    """Runs requests in the block, quietly; turns their errors into a UserError that ends `then`."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging as hub_logging

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # else each of its attempts has lines of its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    # RuntimeError and ValueError: of its uploads and of hf_xet.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{address}: {explain(error)}{then}") from error
    finally:
        hub_logging.set_verbosity(verbosity)


def explain(error: BaseException) -> str:
    """Returns what went wrong in a request, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"is gated; agree to its conditions on its page, then {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private; check the name, or {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision; look on its page, or leave it out for the newest commit"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return f"is not in the cache, and {explain(error.__cause__)}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or error.response.reason_phrase
        remedy = f"{LOGIN} with a token that may do this" if status in (401, 403) else "try later"
        return f"the Hub refuses it ({status} {' '.join(said.split())}); {remedy}"
    if isinstance(error, errors.HTTPError):
        return f"the Hub cannot be reached ({one_line(error)}); check the connection"
    if isinstance(error, OSError) and error.errno:
        return (
            f"the cache cannot be used ({one_line(error)}); make space or repair the disk, or name "
            "another folder with HF_HOME"
        )
    return f"failed ({one_line(error.__cause__ or error)}); try again"


def missing(repository: str, file: str, names: list[str]) -> str:
    """Returns what a repository with these files holds, which has not the one that was wanted."""
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return f"holds no {file}; add the one you mean, as /FILE: {', '.join(others[:5])}"
    pickles = [name for name in names if name.lower().endswith(EXTENSIONS)]
    if pickles:
        found = ", ".join(pickles[:5])
        return f"holds no .safetensors file, but {found}; {convert(repository, pickles[0])}"
    return f"holds no weights: none of its {len(names)} files is a .safetensors file"


def convert(repository: str, file: str) -> str:
    """Returns how to come to a .safetensors file."""
    return (
        f"`hf download {repository} {file} --local-dir .` and convert it: python -m "
        f"mprnet_jax.convert --input {file} --output {WEIGHTS}"
    )


def check_hash(path: Path) -> None:
    """Raises UserError if a large file in the cache is not the one that the Hub has.

    The cache links such files by the SHA-256 that the Hub gave; where it cannot, there is no check.
    """
    if not path.is_symlink():
        return
    file = Path(os.path.normpath(path.parent / os.readlink(path)))
    if not re.fullmatch("[0-9a-f]{64}", file.name):
        return  # a small one, which has another hash
    with open(file, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.name:
        raise UserError(
            f"{file}: damaged (another SHA-256 than on the Hub); remove it and try again"
        )
