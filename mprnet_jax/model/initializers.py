"""How parameters start: as PyTorch starts convolutions, uniform within +-1/sqrt(fan_in).

`uniform` draws with JAX while a module is built, `init_params` draws for a whole network on the
host. Both take the bounds from `bound`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SLOPE = 0.25  # of PReLU
CONSTANTS = {"slope": SLOPE}  # parameters, by name, that start as a constant


def bound(kernel_shape: Sequence[int]) -> float:
    """Largest starting value of a kernel [..., C_in, C_out] and of its bias: 1/sqrt(fan_in)."""
    return math.prod(kernel_shape[:-1]) ** -0.5


def uniform(kernel_shape: Sequence[int]) -> Callable[..., jax.Array]:
    """Initializer for a kernel of this shape, and for the bias beside it."""
    largest = bound(kernel_shape)

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32, **_) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -largest, largest)

    return init


def init_params(shapes: dict, seed: int) -> dict:
    """Draws the parameters of a network.

    Runs on the host: compiling a generator for each parameter would take most of a minute, and a
    seed means the same on every kind of device.

    Args:
        shapes: the parameters' shapes, a nested dict.
        seed: of NumPy's generator.

    Returns:
        The same nested dict with float32 arrays.

    Raises:
        ValueError: for a parameter that is neither in `CONSTANTS` nor of a convolution.
    """
    rng = np.random.default_rng(seed)

    def draw(node: dict) -> dict:
        drawn: dict[str, Any] = {}
        for name, child in node.items():
            if isinstance(child, dict):
                drawn[name] = draw(child)
            elif name in CONSTANTS:
                drawn[name] = np.full(child.shape, CONSTANTS[name], np.float32)
            elif name not in ("kernel", "bias"):
                raise ValueError(f"{name}: add to CONSTANTS what this parameter starts as")
            else:
                largest = bound(node["kernel"].shape)
                drawn[name] = rng.uniform(-largest, largest, child.shape).astype(np.float32)
        return drawn

    return draw(shapes)
