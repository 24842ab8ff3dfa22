import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.config import OptimConfig
from mprnet_jax.training.optimizer import make_optimizer, schedule


def test_rate_warms_up_linearly_then_falls_as_a_cosine():
    config = OptimConfig(learning_rate=2e-4, final_learning_rate=1e-6, warmup_steps=3)
    rate = schedule(config, total_steps=103)
    np.testing.assert_allclose([rate(i) for i in range(3)], [2e-4 / 3, 4e-4 / 3, 2e-4], rtol=1e-6)
    assert float(rate(3)) == pytest.approx(2e-4)
    assert float(rate(53)) == pytest.approx((2e-4 + 1e-6) / 2, rel=1e-5)  # half of the cosine
    assert float(rate(103)) == pytest.approx(1e-6, rel=1e-4)


def test_cosine_may_outlast_the_run():
    config = OptimConfig(warmup_steps=3, decay_steps=117)
    rate = schedule(config, total_steps=80)
    # mprnet.md, section 4: 77 of 117 epochs down the cosine it ends near 5.5e-5.
    assert float(rate(80)) == pytest.approx(5.5e-5, rel=0.05)


def test_first_update_has_the_size_of_the_rate_whatever_the_gradient():
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2), total_steps=10)
    params = {"w": jnp.zeros(3)}
    updates, _ = optimizer.update(
        {"w": jnp.array([1e-3, -5.0, 1e3])}, optimizer.init(params), params
    )
    # Adam divides the gradient by its own size; eps = 1e-8 takes 1e-5 of the smallest.
    np.testing.assert_allclose(updates["w"], [-1e-2, 1e-2, -1e-2], rtol=1e-4)


def test_weight_decay_joins_the_gradient_after_clipping():
    optimizer = make_optimizer(OptimConfig(clip_norm=1.0, weight_decay=0.1), total_steps=10)
    params = {"w": jnp.array([3.0, -2.0])}
    gradient = {"w": jnp.array([30.0, 40.0])}
    _, (*_, (adam, _)) = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(adam.mu["w"], 0.1 * np.array([0.6 + 0.3, 0.8 - 0.2]), rtol=1e-6)


def test_clipping_limits_the_norm_that_adam_sees():
    optimizer = make_optimizer(OptimConfig(clip_norm=1.0), total_steps=10)
    params = {"w": jnp.zeros(2)}
    _, (_, (adam, _)) = optimizer.update({"w": jnp.array([30.0, 40.0])}, optimizer.init(params))
    np.testing.assert_allclose(adam.mu["w"], 0.1 * np.array([0.6, 0.8]), rtol=1e-6)
