import functools

import jax
import numpy as np
import pytest

from mprnet_jax.training.mixup import mixup

COUNT = 64


@pytest.fixture
def pairs():
    """Pair i is i everywhere, and its target 1000 + i."""
    numbers = np.broadcast_to(
        np.arange(COUNT, dtype=np.float32)[:, None, None, None], (COUNT, 2, 2, 3)
    )
    return numbers, 1000 + numbers


@functools.partial(jax.jit, static_argnames=("seed", "from_step"))
def mix(pairs, step, seed=0, from_step=3):
    return mixup(*pairs, step, seed=seed, from_step=from_step)


def test_pairs_stay_as_they_are_before_the_first_mixed_step(pairs):
    for step in range(3):
        for ours, given in zip(mix(pairs, step), pairs):
            np.testing.assert_array_equal(ours, given)
    assert not np.array_equal(mix(pairs, 3)[0], pairs[0])


def test_input_and_target_get_one_weight_for_the_whole_sample(pairs):
    degraded, target = (np.asarray(images) for images in mix(pairs, 3))
    np.testing.assert_array_equal(
        degraded, np.broadcast_to(degraded[:, :1, :1, :1], degraded.shape)
    )
    # 1e-3: float32 numbers around 1000.
    np.testing.assert_allclose(target, 1000 + degraded, rtol=0, atol=1e-3)


def test_bytes_are_mixed_as_the_numbers_that_they_stand_for():
    patches = np.random.default_rng(0).integers(0, 256, (COUNT, 2, 2, 3), np.uint8)
    floats = patches.astype(np.float32) / 255
    for ours, expected in zip(mix((patches, patches[::-1]), 3), mix((floats, floats[::-1]), 3)):
        # 1e-6: float32 roundings of numbers up to 1.
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_partners_are_a_permutation_and_weights_follow_the_beta_distribution():
    # Pair i is white in channel i alone: its blend tells its weight and its partner.
    marks = np.eye(COUNT, dtype=np.float32)[:, None, None, :]
    weights = []
    for step in range(100):
        mixed = np.asarray(mix((marks, marks), step, from_step=0)[0])[:, 0, 0, :]
        np.testing.assert_allclose(mixed.sum(axis=-1), 1, rtol=1e-6)
        others = mixed * (1 - np.eye(COUNT))
        moved = others.any(axis=-1)
        assert len(set(others.argmax(axis=-1)[moved])) == moved.sum() > COUNT // 2
        weights.extend(mixed.diagonal()[moved])
    # Beta(0.6, 0.6) has mean 1/2 and variance 1 / 8.8; five standard errors of 6300 draws.
    assert np.mean(weights) == pytest.approx(0.5, abs=0.022)
    assert np.var(weights) == pytest.approx(1 / 8.8, abs=0.006)


def test_draws_are_a_function_of_seed_and_step(pairs):
    first = mix(pairs, 7)[0]
    np.testing.assert_array_equal(first, mix(pairs, 7)[0])
    assert not np.array_equal(first, mix(pairs, 8)[0])
    assert not np.array_equal(first, mix(pairs, 7, seed=1)[0])
