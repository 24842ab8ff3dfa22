"""What depends on the devices: meshes, shardings, memory, compile options and other hosts."""
