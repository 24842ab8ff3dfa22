"""Speed and memory: ours beside its peers, and what compilers for other machines make of ours.

    python -m benchmarks --suite cpu --output benchmarks/results/cpu.md

Needs jax, flax, optax and numpy; peers that are not installed are told in the tables.
"""
