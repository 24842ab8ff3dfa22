"""The one place that paths from users pass before a library sees them."""

import os
from pathlib import Path

from mprnet_jax.errors import UserError


def user_path(path: Path | str) -> Path:
    """Returns a path that a user gave, in a form that no library takes for anything else.

    A leading `~` or `~USER` becomes that home folder, as shells leave it alone behind `--flag=`. A
    relative path that starts like an address, such as `12:30.mp4`, is made absolute.

    Raises:
        UserError: if there is no such user.
    """
    text = os.fspath(path)
    found = Path(text)
    if text.startswith("~"):
        try:
            found = found.expanduser()
        except RuntimeError as error:
            raise UserError(
                f"{path}: there is no such user's folder; start with ./ if it is a name"
            ) from error
    elif found.parts and (":" in found.parts[0] or found.parts[0].startswith("~")):
        found = found.absolute()  # pathlib drops a leading ./
    return found
