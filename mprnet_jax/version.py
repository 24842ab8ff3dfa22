"""The version, kept here alone; `setup.cfg` reads it."""

__version__ = "0.2.0"
"""The version of the package, such as "0.2.0"."""
