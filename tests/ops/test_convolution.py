import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.ops.convolution import (
    convolve,
    gradient_from_bands,
    gradient_from_pairs,
    kernel_for_pairs,
)

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


def gradient_by_kernel(x, gradient):
    kernel = jnp.zeros((3, 3, x.shape[-1], gradient.shape[-1]))
    return jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](gradient)[0]


@pytest.mark.parametrize(("images", "width"), [(1, 8), (3, 2), (4, 6)])
def test_pairs_have_the_kernel_gradient_of_pixels(images, width):
    x, gradient = draw(images, 5, width, 12), draw(images, 5, width, 9)
    # 1e-4: sums of up to 120 products around 1 in another order.
    np.testing.assert_allclose(
        gradient_from_pairs(x, gradient), gradient_by_kernel(x, gradient), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("images", "count"), [(1, 8), (2, 4), (3, 2), (4, 2)])
def test_bands_have_the_kernel_gradient_of_the_whole(images, count):
    x, gradient = draw(images, 16, 7, 12), draw(images, 16, 7, 9)
    found = gradient_from_bands(x, gradient, count)
    # 1e-4: sums of up to 448 products around 1 in another order.
    np.testing.assert_allclose(found, gradient_by_kernel(x, gradient), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        ((4, 8, 8, 16), "pairs"),
        ((4, 7, 8, 16), "pairs"),
        ((4, 8, 7, 16), "bands"),
        ((1, 8, 8, 80), "bands"),
        ((8, 8, 8, 16), "plain"),
        ((2, 6, 7, 16), "plain"),
        ((0, 8, 8, 16), "plain"),
    ],
)
def test_the_kernel_gradient_from_few_images_on_cpus(shape, way):
    x, kernel = jnp.zeros(shape), jnp.zeros((3, 3, shape[-1], 16))
    gradient = jax.jit(jax.grad(lambda x, kernel: conv(x, kernel).sum(), argnums=(0, 1)))
    text = gradient.lower(x, kernel).as_text()
    found = "pairs" if "3x2x32xf32" in text else "bands" if "barrier" in text else "plain"
    assert found == way


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
    x, kernel = jnp.zeros((8, 4, width, channels)), jnp.zeros((3, 3, channels, 40))
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


@pytest.mark.parametrize("options", [{"window_strides": (2, 2)}, {"rhs_dilation": (2, 2)}])
def test_strides_and_dilation_are_refused(options):
    options = OPTIONS | options
    with pytest.raises(AssertionError, match="no strides, no dilation"):
        convolve(jnp.zeros((1, 8, 8, 16)), jnp.zeros((3, 3, 16, 16)), **options)
