"""Tests of what must hold on a GPU or TPU; see tests/conftest.py for when they run."""

import os

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def _accelerator():
    """Skips all tests where JAX has only the CPU, unless MPRNET_ACCELERATOR_TESTS=cpu."""
    if jax.default_backend() == "cpu" and os.environ.get("MPRNET_ACCELERATOR_TESTS") != "cpu":
        pytest.skip("needs a GPU or TPU, and a run of its own: pytest tests/accelerator")
