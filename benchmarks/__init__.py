"""Speed and memory of this package beside its peers, and of its programs for other devices.

    python -m benchmarks --suite cpu --output benchmarks/results/cpu.md

Needs jax, flax, optax and numpy. The tables say which peers are not installed.
"""
