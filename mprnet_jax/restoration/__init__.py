"""Restoring photos of any size."""
