"""Images on larger arrays: the same results as on arrays of their own size."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices.mesh import image_sharding, make_mesh, sharding_constraint
from mprnet_jax.model.canvas import COLUMNS, ROWS, Canvas
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.model.pooling import global_mean, local_mean

HEIGHT, WIDTH = 48, 64
PAIR_OF_SIZES = ((40, 24), (16, 64))
MORE_PAIRS = [((48, 64), (8, 8)), ((48, 8), (24, 40))]


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


class Network(NamedTuple):
    """A network, its parameters, and its program for images on arrays of their own size."""

    apply: Callable
    params: dict
    alone: Callable


def make_network(config: ModelConfig, **options) -> Network:
    init, apply = pure_functions(config)
    return Network(apply, init(0), jax.jit(functools.partial(apply, **options)))


@pytest.fixture(scope="module")
def network(make_tiny_model):
    """The whole network, with biases: only then is anything but zeros beside the images."""
    return make_network(dataclasses.replace(make_tiny_model(), bias=True))


@pytest.mark.parametrize("pool", [global_mean, local_mean])
def test_one_program_restores_images_of_all_sizes(network, images, pool, exhaustive):
    apply, params, alone = network
    shared = jax.jit(functools.partial(apply, pool=pool))
    for sizes in [PAIR_OF_SIZES] + MORE_PAIRS * exhaustive:
        pair = [image[:height, :width] for image, (height, width) in zip(images, sizes)]
        arrays, sizes = on_canvas(pair, HEIGHT, WIDTH)
        found = shared(params, arrays, sizes=sizes)
        for index, image in enumerate(pair):
            # In images smaller than the window of local means, these are global means.
            for stage, expected in zip(found, alone(params, image[None])):
                stage = stage[index, : image.shape[0], : image.shape[1]]
                # Rounding of float32 in other orders of summing.
                np.testing.assert_allclose(stage, expected[0], atol=1e-5)
    assert shared._cache_size() == 1


def test_local_means_on_a_canvas_wider_than_their_window(tiny_model):
    config = dataclasses.replace(tiny_model, stages="unet")
    apply, params, alone = make_network(config, pool=local_mean)
    rng, shared = np.random.default_rng(0), jax.jit(functools.partial(apply, pool=local_mean))
    for size in [(16, 440), (16, 392), (8, 384), (16, 200)]:
        image = rng.random((*size, 3), np.float32)
        arrays, sizes = on_canvas([image], 16, 448)
        found = shared(params, arrays, sizes=sizes)
        for stage, other in zip(found, alone(params, image[None])):
            np.testing.assert_allclose(stage[:, : size[0], : size[1]], other, atol=1e-5)


def test_bfloat16_on_a_canvas(tiny_model, images):
    config = dataclasses.replace(tiny_model, stages="unet", dtype="bfloat16")
    apply, params, alone = make_network(config)
    image = images[0, :40, :48]
    arrays, sizes = on_canvas([image], HEIGHT, WIDTH)
    found = jax.jit(apply)(params, arrays, sizes=sizes)[0][:, :40, :48]
    # Sums in another order round another way in 8 bits of mantissa, through some 20 layers.
    np.testing.assert_allclose(found, alone(params, image[None])[0], atol=0.02)


# On two devices, whole images are constrained as well; on four, only their halves and quadrants.
@pytest.mark.parametrize("shape", [(1, 2), (2, 2)])
def test_images_on_a_canvas_spread_over_devices(network, images, shape, exhaustive):
    """Images over "data", rows over "height"."""
    if shape == (1, 2) and not exhaustive:
        pytest.skip("compiles the whole network once more")
    apply, params, alone = network
    mesh = make_mesh(*shape)
    pair = [images[0, :40, :24], images[1, :16, :]]
    arrays, sizes = on_canvas(pair, HEIGHT, WIDTH)
    restore = jax.jit(
        functools.partial(apply, constrain=sharding_constraint(mesh)),
        out_shardings=image_sharding(mesh),
    )
    found = restore(params, jax.device_put(arrays, image_sharding(mesh)), sizes=sizes)
    for index, image in enumerate(pair):
        for stage, other in zip(found, alone(params, image[None])):
            stage = stage[index, : image.shape[0], : image.shape[1]]
            np.testing.assert_allclose(stage, other[0], atol=1e-5)  # other orders of summing


def test_images_that_fill_their_arrays_have_the_program_that_they_had(tiny_model, images):
    """Nothing of canvases is left where no sizes are given."""
    init, apply = pure_functions(tiny_model)
    text = jax.jit(lambda x: apply(init(0), x)).lower(images).as_text()
    assert not any(word in text for word in ("iota", "dynamic_slice", "gather"))
