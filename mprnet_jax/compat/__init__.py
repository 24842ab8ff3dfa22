"""All use of other libraries' private parts: one module for each library.

The docstring of each patch has the same four entries: Reason, Tried with, Upstream, Remove when. If
a library has changed, it is used without the patch, and `warn_once` names the consequence.
"""

from absl import logging

_warned: set[tuple[str, str]] = set()


def warn_once(library: str, consequence: str) -> None:
    """Logs a warning that a patch does not fit a library; once per process and consequence.

    Args:
        library: name of the library.
        consequence: what the user will notice without the patch.
    """
    if (library, consequence) not in _warned:
        _warned.add((library, consequence))
        logging.warning(
            "%s has changed in a way that mprnet_jax does not know yet: %s", library, consequence
        )
