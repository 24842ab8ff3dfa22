"""Computes a block of the network in another way, and proves that the network is the same.

    python examples/changed_block.py derain

The weights may be any file or run folder. Where a block differs, the script ends with its name; a
change that is meant to differ wants the same change in weights/torch_reference.py.
"""

import sys

import jax.numpy as jnp
from flax import nnx

from mprnet_jax.model import layers
from mprnet_jax.weights import files, parity


class Attention(layers.ChannelAttention):
    """Channel attention with the sigmoid written out as a hyperbolic tangent."""

    def __call__(self, x, shared):
        means = shared.pool(x, shared.canvas)  # of the image, which may be smaller than its array
        factors = self.excite(nnx.relu(self.squeeze(means)))
        return layers.scale(x, 0.5 + 0.5 * jnp.tanh(factors / 2))


def main(weights):
    layers.ChannelAttention = Attention  # every CAB that is built from here on has it
    report = parity.compare(files.read(weights), files.read_official(weights))
    print(report)
    report.check_agreement()


if __name__ == "__main__":
    main(*sys.argv[1:])
