"""The version, kept here alone; `setup.cfg` reads it."""

__version__ = "0.1.0"
