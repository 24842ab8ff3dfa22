"""A small network's weights by official name, as PyTorch initialises them."""

import gc

import numpy as np
import pytest
import torch

from mprnet_jax.config import ModelConfig


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread():
    """PyTorch's threads wait for each other busily, which is slow beside other work."""
    torch.set_num_threads(1)


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)


@pytest.fixture
def weights(config) -> dict[str, np.ndarray]:
    from mprnet_jax.weights import names

    rng = np.random.default_rng(0)

    def tensor(shape):
        bound = np.prod(shape[1:]) ** -0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return {
        entry.official_name: np.full(1, 0.25, np.float32)
        if entry.our_path == "slope"
        else tensor(entry.shape)
        for entry in names.name_table(config)
    }


@pytest.fixture
def _orbax_leaves_coroutines_behind():
    """Where damage ends its reading; they are collected here, not in the midst of another test."""
    gc.freeze()  # what other tests have left takes seconds to look through
    yield
    gc.collect()
    gc.unfreeze()
