import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.model.convolution import convolve, kernel_for_pairs, kernel_gradient

OPTIONS = {
    "window_strides": (1, 1),
    "padding": "SAME",
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
}
conv = functools.partial(convolve, **OPTIONS)
plain = functools.partial(jax.lax.conv_general_dilated, **OPTIONS)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_pairs_compute_what_pixels_do():
    x, kernel = draw(2, 5, 8, 12), draw(3, 3, 12, 9)
    in_pairs = conv(x.reshape(2, 5, 4, 24), kernel_for_pairs(kernel)).reshape(2, 5, 8, 9)
    # 1e-5: sums of 108 products around 1 in another order.
    np.testing.assert_allclose(in_pairs, conv(x, kernel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("images", "count"), [(1, 8), (2, 4), (3, 2), (4, 2)])
def test_bands_have_the_gradient_of_the_whole(images, count):
    x, gradient = draw(images, 16, 7, 12), draw(images, 16, 7, 9)
    by_kernel = jax.vjp(lambda kernel: plain(x, kernel), jnp.zeros((3, 3, 12, 9)))[1](gradient)[0]
    # 1e-4: sums of up to 448 products around 1 in another order.
    np.testing.assert_allclose(kernel_gradient(x, gradient, count), by_kernel, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "banded"),
    [((4, 8), True), ((1, 8), True), ((8, 8), False), ((2, 6), False), ((0, 8), False)],
)
def test_few_images_are_cut_into_bands_on_cpus(shape, banded):
    x, kernel = jnp.zeros((*shape, 7, 16)), jnp.zeros((3, 3, 16, 16))
    gradient = jax.jit(jax.grad(lambda x, kernel: conv(x, kernel).sum(), argnums=(0, 1)))
    assert ("optimization_barrier" in gradient.lower(x, kernel).as_text()) == banded


@pytest.mark.parametrize(
    ("platform", "width", "channels", "paired"),
    [
        ("tpu", 8, 40, True),
        ("tpu", 7, 40, False),
        ("tpu", 8, 72, False),
        ("tpu", 8, 3, False),
        ("cpu", 8, 40, False),
        ("cuda", 8, 40, False),
    ],
)
def test_narrow_maps_go_in_pairs_through_tpus_only(platform, width, channels, paired):
    x, kernel = jnp.zeros((1, 4, width, channels)), jnp.zeros((3, 3, channels, 40))
    for function in (conv, jax.grad(lambda x, kernel: conv(x, kernel).sum(), argnums=(0, 1))):
        text = jax.jit(function).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert convolutions
        for line in convolutions:
            assert ("x80xf32" in line) == paired, line


def test_no_choice_is_left_to_the_compiled_program():
    x, kernel = jnp.zeros((1, 8, 8, 40)), jnp.zeros((3, 3, 40, 40))
    gradient = jax.jit(jax.grad(lambda x, kernel: conv(x, kernel).sum(), argnums=(0, 1)))
    assert "conditional" not in gradient.lower(x, kernel).compile().as_text()
