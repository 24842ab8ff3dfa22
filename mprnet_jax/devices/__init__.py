"""Meshes, shardings and compile options: everything that depends on the devices at hand."""
