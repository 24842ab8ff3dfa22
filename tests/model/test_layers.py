import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from mprnet_jax.config import REMATS
from mprnet_jax.devices.compiling import jit
from mprnet_jax.model import layers
from mprnet_jax.model.canvas import Canvas


@pytest.fixture
def maps():
    return np.random.default_rng(0).standard_normal((2, 6, 10, 3)).astype(np.float32)


def torch_resize(maps, scale):
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(maps.transpose(0, 3, 1, 2)),
        scale_factor=scale,
        mode="bilinear",
        align_corners=False,
    )
    return resized.numpy().transpose(0, 2, 3, 1)


def shared_by(maps, slope=None) -> layers.Shared:
    """For maps that images fill."""
    return layers.Shared(slope, Canvas(*maps.shape[1:3]))


def upsample2x(maps):
    return layers.upsample2x(maps, Canvas(*maps.shape[1:3]))


@pytest.mark.parametrize(("resize", "scale"), [(layers.downsample2x, 0.5), (upsample2x, 2)])
def test_resizing_is_bilinear_with_half_pixel_centres(maps, resize, scale):
    # 1e-6: a few float32 roundings of values around 1.
    np.testing.assert_allclose(resize(maps), torch_resize(maps, scale), atol=1e-6)


def test_up_convolves_after_resizing_whatever_the_order_inside(maps, tiny_model):
    up = layers.Up(3, 5, tiny_model, rngs=nnx.Rngs(0))
    expected = torch_resize(maps, 2) @ np.asarray(up.conv.kernel[...])
    np.testing.assert_allclose(
        up(maps, shared_by(maps)), expected, atol=1e-6
    )  # float32 roundings of values near 1


def test_fused_convolutions_equal_its_convolutions_one_by_one(maps, tiny_model):
    tiny_model.bias = True
    rngs = nnx.Rngs(0)
    first = layers.conv1x1(3, 4, tiny_model, rngs, bias=False)
    last = layers.conv1x1(4, 5, tiny_model, rngs)
    # 1e-6: the products are summed in another order.
    np.testing.assert_allclose(
        layers.fused_conv1x1(maps, first, last), last(first(maps)), atol=1e-6
    )
    with pytest.raises(AssertionError, match="only the last may have a bias"):
        layers.fused_conv1x1(maps, layers.conv1x1(3, 4, tiny_model, rngs), last)


def test_prelu_scales_negative_values_only():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(layers.prelu(x, jnp.array([0.25])), [-0.5, 0.0, 3.0])


def test_cab_is_residual_with_scaled_channels(maps, tiny_model):
    tiny_model.reduction = 1
    cab = layers.CAB(3, tiny_model, rngs=nnx.Rngs(0))
    shared = shared_by(maps, jnp.array([0.25]))
    y = np.asarray(cab.conv2(layers.prelu(cab.conv1(maps), shared.slope)))
    scale = (np.asarray(cab(maps, shared)) - maps) / y
    # One number for a channel of an image, between 0 and 1; 1e-3 as small y magnify roundings.
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:, :1, :1], y.shape), rtol=1e-3)
    assert ((scale > 0) & (scale < 1)).all()


def test_remat_gives_the_same_gradients(maps, tiny_model):
    def gradients(remat):
        config = dataclasses.replace(tiny_model, remat=remat, reduction=1)
        cabs = layers.CABs(3, 3, config, rngs=nnx.Rngs(0))
        graph, params = nnx.split(cabs)

        def loss(params, slope):
            return jnp.sum(nnx.merge(graph, params)(maps, shared_by(maps, slope)) ** 2)

        return jit(jax.grad(loss, argnums=(0, 1)))(params, jnp.array([0.25]))

    expected = gradients("none")
    for remat in REMATS[1:]:
        # 1e-5 of the largest: the same sums, which the compiler may order otherwise.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()),
            gradients(remat),
            expected,
        )


def test_bfloat16_gradients_of_what_all_pixels_share_keep_their_digits(tiny_model):
    maps = np.random.default_rng(0).random((1, 128, 128, 4), np.float32)

    def gradients(dtype):
        cab = layers.CAB(4, dataclasses.replace(tiny_model, dtype=dtype), rngs=nnx.Rngs(0))
        graph, params = nnx.split(cab)

        def loss(params, slope):
            y = nnx.merge(graph, params)(maps.astype(dtype), shared_by(maps, slope))
            return jnp.mean(y.astype(jnp.float32))

        return jit(jax.grad(loss, argnums=(0, 1)))(params, jnp.array([0.25]))

    def compare(found, expected):
        # 3 %: bfloat16 has 8 bits, and errors of many pixels cancel. Summed in it, 16,384 numbers
        # came out as little as a thirtieth of what they are.
        assert np.linalg.norm(found - expected) <= 0.03 * np.linalg.norm(expected)

    jax.tree.map(compare, gradients("bfloat16"), gradients("float32"))


def test_sam_restores_and_attends(maps, tiny_model):
    sam = layers.SAM(3, tiny_model, rngs=nnx.Rngs(0))
    degraded = maps[::-1]
    attended, restored = sam(maps, degraded, shared_by(maps))
    np.testing.assert_allclose(restored - degraded, sam.residual(maps), atol=1e-6)
    gate = jax.nn.sigmoid(sam.gate(restored))
    np.testing.assert_allclose(attended, sam.features(maps) * gate + maps, atol=1e-6)


@pytest.mark.parametrize("make", [layers.conv1x1, layers.conv3x3])
def test_parameters_start_uniform_within_the_inverse_root_of_fan_in(make, tiny_model):
    tiny_model.bias = True
    conv = make(64, 64, tiny_model, nnx.Rngs(0))
    bound = np.prod(conv.kernel.shape[:-1]) ** -0.5
    for values in (conv.kernel[...], conv.bias[...]):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound  # 64 values or more come that close
        assert values.mean() == pytest.approx(0, abs=0.3 * bound)  # four deviations of 64 values
