"""Local means against their definition (TLC, ECCV 2022): slow, direct, float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mprnet_jax import ModelConfig, MPRNet
from mprnet_jax.model.canvas import Canvas
from mprnet_jax.model.pooling import global_mean, local_mean, window_means


def direct(x: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Means over a window, valid places only, replicated outwards to the size of the map."""
    _, h, w, _ = x.shape
    kh, kw = min(window[0], h), min(window[1], w)
    rows = [x[:, i : i + kh].mean(axis=1) for i in range(h - kh + 1)]
    means = np.stack(rows, axis=1)
    means = np.stack([means[:, :, j : j + kw].mean(axis=2) for j in range(w - kw + 1)], axis=2)
    top, left = (kh - 1) // 2, (kw - 1) // 2  # of the margin h - h' = kh - 1, the smaller half
    margins = ((0, 0), (top, kh - 1 - top), (left, kw - 1 - left), (0, 0))
    return np.pad(means, margins, mode="edge")


# Maps of the network by what they hold (parts of the image's height and width) and by level, with
# the window that 1.5 times a 256x256 image gives them.
PARTS = {"quadrant": (2, 2, 192, 192), "half": (2, 1, 192, 384), "whole": (1, 1, 384, 384)}


@pytest.mark.parametrize("size", [(448, 800), (256, 320), (104, 1000), (384, 392)])
@pytest.mark.parametrize(
    ("part", "level"), [("quadrant", 0), ("quadrant", 2), ("half", 1), ("whole", 0), ("whole", 2)]
)
def test_equals_the_definition(size: tuple[int, int], part: str, level: int):
    rows, columns, kh, kw = PARTS[part]
    shape = (1, size[0] // rows >> level, size[1] // columns >> level, 2)
    x = np.random.default_rng(0).normal(size=shape)
    ours = jax.jit(local_mean, static_argnums=1)(jnp.asarray(x, jnp.float32), Canvas(*size))
    expected = direct(x, (kh >> level, kw >> level))
    # float32 sums of up to 384 numbers of size 1, twice
    np.testing.assert_allclose(np.broadcast_to(ours, shape), expected, atol=1e-6)


@pytest.mark.parametrize("preset", [ModelConfig.derain, ModelConfig.denoise, ModelConfig.deblur])
def test_the_maps_of_the_presets_are_those_of_the_parts(preset):
    config = dataclasses.replace(preset(), cabs_per_orb=1)
    height, width = 448, 800
    seen = set()

    def record(x: jax.Array, canvas: Canvas) -> jax.Array:
        seen.add(x.shape[1:3])
        return global_mean(x, canvas)

    def restore(images):
        return MPRNet(config, rngs=nnx.Rngs(0))(images, pool=record)

    jax.eval_shape(restore, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    assert seen == {
        (height // rows >> level, width // columns >> level)
        for rows, columns, *_ in PARTS.values()
        for level in range(3)
    }


def test_keeps_its_digits_on_a_wide_photo_far_from_zero():
    x = 1000 + np.random.default_rng(0).normal(size=(1, 8, 3840, 1)).astype(np.float32)
    ours = jax.jit(local_mean, static_argnums=1)(x, Canvas(8, 3840))
    expected = direct(x.astype(np.float64), (8, 384))
    # What 1000 +- 1 can keep in float32 is 6e-5; a running sum over 3840 such numbers loses 1e-3.
    np.testing.assert_allclose(np.broadcast_to(ours, x.shape), expected, atol=2e-4)


def test_a_dark_place_far_from_a_bright_one_is_exact():
    x = np.full((1, 8, 3840, 1), 1e-4, np.float32)
    x[:, :, :1000] = 1e4
    dark = np.asarray(jax.jit(local_mean, static_argnums=1)(x, Canvas(8, 3840)))[0, 0, 1400:, 0]
    np.testing.assert_allclose(dark, 1e-4, rtol=1e-6)  # rounding of float32, nothing of the 1e4


def test_small_images_pool_globally():
    x = jnp.asarray(np.random.default_rng(0).random((2, 48, 64, 3)), jnp.float32)
    means, canvas = local_mean(x, Canvas(48, 64)), Canvas(48, 64)
    assert means.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(means, global_mean(x, canvas), rtol=1e-6)  # order of sums


def test_bfloat16_maps_are_summed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).random((1, 16, 800, 1)), jnp.bfloat16)
    expected = local_mean(x.astype(jnp.float32), Canvas(16, 800)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(local_mean(x, Canvas(16, 800)), expected)


@pytest.mark.parametrize("length", [30, 24, 18, 16])
def test_the_means_of_a_map_that_ends_early(length: int):
    """On a map that is zero from there on, around windows of 18 rows."""
    x = np.random.default_rng(0).random((1, length, 5, 2), np.float32)
    expected = window_means(x, min(18, length), 1, length)
    longer = jnp.pad(x, ((0, 0), (0, 30 - length), (0, 0), (0, 0)))
    means = window_means(longer, 18, 1, jnp.full((1, 1, 1, 1), length))[:, :length]
    # The same sums of up to 18 numbers of size 1, in another order where the map is short.
    np.testing.assert_allclose(means, np.broadcast_to(expected, x.shape), atol=1e-6)
