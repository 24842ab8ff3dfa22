"""All use of other libraries' private parts: one module for each library.

The docstring of each patch says why it is needed, which versions it was tried with, the upstream
issue where there is one, and when it can go. A library that has changed is used without the patch,
and `warn_once` says what that costs.
"""

from absl import logging

_warned: set[str] = set()


def warn_once(library: str, consequence: str) -> None:
    """Logs, once per process, that a patch no longer applies to a library.

    Args:
        library: its name on PyPI.
        consequence: what the user will notice without the patch.
    """
    if library not in _warned:
        _warned.add(library)
        logging.warning(
            "%s has changed in a way that mprnet_jax does not know yet: %s", library, consequence
        )
