"""How parameters start."""

from types import SimpleNamespace

import numpy as np
import pytest

from mprnet_jax.model.initializers import SLOPE, init_params


def test_convolutions_are_drawn_and_constants_are_not():
    shapes = {"slope": (1,), "conv": {"kernel": (3, 3, 4, 8), "bias": (8,)}}
    shapes["conv"] = {k: SimpleNamespace(shape=v) for k, v in shapes["conv"].items()}
    shapes["slope"] = SimpleNamespace(shape=shapes["slope"])
    params = init_params(shapes, seed=0)
    np.testing.assert_array_equal(params["slope"], np.float32([SLOPE]))
    for drawn in params["conv"].values():
        assert 0.9 / 6 < np.abs(drawn).max() <= 1 / 6 or drawn.size < 100  # 1/sqrt(3 * 3 * 4)
        assert drawn.dtype == np.float32
    with pytest.raises(ValueError, match="gain: add to CONSTANTS what this parameter starts as"):
        init_params({"conv": shapes["conv"], "gain": SimpleNamespace(shape=(1,))}, seed=0)
