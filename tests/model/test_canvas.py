"""Images on larger arrays: the same results as on arrays of their own size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.devices.mesh import image_sharding, make_mesh, sharding_constraint
from mprnet_jax.model.canvas import COLUMNS, ROWS, Canvas
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.model.pooling import global_mean, local_mean

HEIGHT, WIDTH = 48, 64
SIZES = [(48, 64), (8, 8), (40, 64), (24, 40), (48, 8)]


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, HEIGHT, WIDTH, 3), np.float32)


@pytest.fixture
def sizes():
    return jnp.array([[40, 24], [16, 64]])


def on_canvas(images: list[np.ndarray], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in the corners of arrays that hold something else besides, and their sizes."""
    arrays = np.full((len(images), height, width, 3), 100, np.float32)
    for array, image in zip(arrays, images):
        array[: image.shape[0], : image.shape[1]] = image
    return arrays, np.array([image.shape[:2] for image in images], np.int32)


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
def test_join_undoes_split(images, axis):
    canvas = Canvas(HEIGHT, WIDTH)
    parts = canvas.split(images, axis)
    np.testing.assert_array_equal(parts[0], np.split(images[0], 2, axis - 1)[0])
    np.testing.assert_array_equal(canvas.join(parts, axis), images)


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
def test_join_undoes_split_of_images_on_a_canvas(images, sizes, axis):
    canvas = Canvas(HEIGHT, WIDTH, sizes)
    images = canvas.mask(images)
    parts = canvas.split(images, axis)
    for number, image in enumerate(images):
        length = sizes[number, axis - 1]
        first, second = np.split(np.asarray(image).take(range(length), axis - 1), 2, axis - 1)
        for part, expected in zip(parts[2 * number : 2 * number + 2], (first, second)):
            found = np.asarray(part).take(range(length // 2), axis - 1)
            np.testing.assert_array_equal(found, expected)
            assert np.abs(part).sum() == pytest.approx(expected.sum())  # and zeros elsewhere
    np.testing.assert_array_equal(canvas.join(parts, axis), images)


def test_means_are_those_of_the_images(images, sizes):
    canvas = Canvas(HEIGHT, WIDTH, sizes)
    means = canvas.mean(canvas.mask(images))
    for mean, image, (height, width) in zip(means, images, sizes):
        expected = image[:height, :width].mean(axis=(0, 1))
        np.testing.assert_allclose(mean[0, 0], expected, rtol=1e-5)  # another order of summing


@pytest.mark.parametrize("pool", [global_mean, local_mean])
@pytest.mark.parametrize("bias", [False, True])
def test_one_program_restores_images_of_all_sizes(tiny_model, images, pool, bias):
    tiny_model.bias = bias
    init, apply = pure_functions(tiny_model)
    params = init(0)
    shared = jax.jit(lambda images, sizes: apply(params, images, sizes=sizes, pool=pool))
    alone = jax.jit(lambda images: apply(params, images, pool=pool))
    for size in SIZES:
        pair = [images[0, : size[0], : size[1]], images[1, :32, :48]]
        found = shared(*on_canvas(pair, HEIGHT, WIDTH))
        for index, image in enumerate(pair):
            for stage, expected in zip(found, alone(image[None])):
                stage = stage[index, : image.shape[0], : image.shape[1]]
                # Rounding of float32 in other orders of summing.
                np.testing.assert_allclose(stage, expected[0], atol=1e-5)
    assert shared._cache_size() == 1


def test_local_means_on_a_canvas_wider_than_their_window(tiny_model):
    init, apply = pure_functions(tiny_model)
    params, rng = init(0), np.random.default_rng(0)
    shared = jax.jit(lambda images, sizes: apply(params, images, sizes=sizes, pool=local_mean))
    for size in [(16, 440), (16, 392), (8, 384), (16, 200)]:
        image = rng.random((*size, 3), np.float32)
        expected = jax.jit(lambda images: apply(params, images, pool=local_mean))(image[None])
        for stage, other in zip(shared(*on_canvas([image], 16, 448)), expected):
            np.testing.assert_allclose(stage[:, : size[0], : size[1]], other, atol=1e-5)


def test_bfloat16_on_a_canvas(tiny_model, images):
    init, apply = pure_functions(dataclasses.replace(tiny_model, dtype="bfloat16"))
    params, image = init(0), images[0, :40, :48]
    array, size = on_canvas([image], HEIGHT, WIDTH)
    found = jax.jit(lambda x, s: apply(params, x, sizes=s))(array, size)[0][:, :40, :48]
    expected = jax.jit(lambda x: apply(params, x))(image[None])[0]
    # Sums in another order round another way in 8 bits of mantissa, through some 30 layers.
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (2, 2)])
def test_images_on_a_canvas_spread_over_devices(tiny_model, images, shape):
    """Images over "data", rows over "height"."""
    init, apply = pure_functions(tiny_model)
    params, mesh = init(0), make_mesh(*shape)
    pair = [images[0, :40, :24], images[1, :16, :]]
    arrays, sizes = on_canvas(pair, HEIGHT, WIDTH)
    restore = jax.jit(
        lambda x, s: apply(params, x, sizes=s, constrain=sharding_constraint(mesh)),
        out_shardings=image_sharding(mesh),
    )
    found = restore(jax.device_put(arrays, image_sharding(mesh)), sizes)
    for index, image in enumerate(pair):
        expected = jax.jit(lambda x: apply(params, x))(image[None])
        for stage, other in zip(found, expected):
            stage = stage[index, : image.shape[0], : image.shape[1]]
            np.testing.assert_allclose(stage, other[0], atol=1e-5)  # other orders of summing


def test_images_that_fill_their_arrays_have_the_program_that_they_had(tiny_model, images):
    """Nothing of canvases is left where no sizes are given."""
    init, apply = pure_functions(tiny_model)
    text = jax.jit(lambda x: apply(init(0), x)).lower(images).as_text()
    assert not any(word in text for word in ("iota", "dynamic_slice", "gather"))
