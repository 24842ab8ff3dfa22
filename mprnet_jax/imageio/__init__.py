"""Reads and writes image files, and lays pictures out on sheets."""
