"""Networks that come with the package, by name. Their weights lie in this folder.

`docs/models/` has a card of each: its training data, its recipe and its scores.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from mprnet_jax.errors import UserError, one_line

FOLDER = Path(__file__).parent
DEFAULT = "denoise"  # of the commands that restore


class Pretrained(NamedTuple):
    """A network that comes with the package."""

    removes: str  # what it takes out of photos
    sha256: str  # of its file


PRETRAINED = {
    "denoise": Pretrained(
        "noise", "289b66a8574b463726ba2f880028398ee683f1805ecd038ad818f22446a84c5f"
    ),
    "derain": Pretrained(
        "rain", "1334e0d43e20a2096cacbebf9904e13293a7ef7db379a4d0c94e3fdb27abb0ce"
    ),
}
NAMES = " or ".join(PRETRAINED)  # for the help of commands


def path_of(name: str) -> Path:
    """Returns the `.safetensors` file of a network in `PRETRAINED`, after checking its hash.

    Raises:
        UserError: if the file is missing, cannot be read or is damaged.
    """
    path = FOLDER / f"{name}.safetensors"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({one_line(error)}); install the package again"
        ) from error
    if found != PRETRAINED[name].sha256:
        raise UserError(f"{path}: damaged (another SHA-256); install the package again")
    return path


def describe_default() -> str:
    """Returns a line for users who did not name weights."""
    others = ", ".join(
        f"`{name}` ({network.removes})" for name, network in PRETRAINED.items() if name != DEFAULT
    )
    return (
        f"Removing {PRETRAINED[DEFAULT].removes} with the network `{DEFAULT}` that comes with the "
        f"package; for something else name {others} or weights of yours with --weights."
    )
