"""Trains with a loss of one's own: python examples/own_loss.py DIR weights.safetensors"""

import sys

import jax
import numpy as np
import optax

from mprnet_jax.config import ModelConfig
from mprnet_jax.data.pairs import PairFolder
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files

MODEL = ModelConfig(width=16, unet_growth=8, orsnet_growth=8, cabs_per_orb=2)


def main(folder, output, model=MODEL, steps=1000):  # pairs of one size, in input and target
    pairs, rng = PairFolder(folder), np.random.default_rng(0)
    init, apply = pure_functions(model)
    optimizer, params = optax.adam(1e-3), init(seed=0)

    def loss(params, degraded, target):  # the mean absolute error of all stages' images
        return sum(abs(stage - target / 255).mean() for stage in apply(params, degraded / 255))

    @jax.jit
    def step(params, state, degraded, target):
        updates, state = optimizer.update(jax.grad(loss)(params, degraded, target), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        batch = [pairs[i] for i in rng.integers(len(pairs), size=4)]
        images = [np.stack([pair[name] for pair in batch]) for name in ("degraded", "target")]
        params, state = step(params, state, *images)
    files.write(output, model, jax.device_get(params))  # restore, evaluate and convert read it


if __name__ == "__main__":
    main(*sys.argv[1:])
