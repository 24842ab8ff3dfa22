import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mprnet_jax.config import LossConfig
from mprnet_jax.training import losses

KERNEL = np.outer(losses.GAUSSIAN, losses.GAUSSIAN)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 3, 12, 16, 3))


def blur(image):
    return np.stack(
        [ndimage.correlate(image[..., c], KERNEL, mode="nearest") for c in range(3)], axis=-1
    )


def slow_pyramid_step(image):
    """mprnet.md's definition, image by image in float64."""
    sparse = np.zeros_like(image)
    sparse[::2, ::2] = 4 * blur(image)[::2, ::2]
    return image - blur(sparse)


def test_pyramid_step_is_what_its_definition_says(images):
    image = images[0, 0]
    # 1e-6: float32 against float64 on values up to 1.
    np.testing.assert_allclose(
        losses.laplacian_pyramid(jnp.float32(image[None]))[0], slow_pyramid_step(image), atol=1e-6
    )


def test_laplacian_operator_of_a_paraboloid_is_constant():
    y, x = np.mgrid[:8, :8].astype(np.float32)
    image = np.broadcast_to((y**2 + 2 * x**2)[None, ..., None], (1, 8, 8, 3))
    # Second differences of y^2 and 2 x^2; integers below 2^24 are exact in float32.
    np.testing.assert_array_equal(losses.laplacian_operator(image)[:, 1:-1, 1:-1], 6.0)


def test_charbonnier_is_a_smooth_absolute_value():
    difference = jnp.array([0.0, 3.0, -4.0])
    expected = np.mean(np.sqrt(np.array([0, 9, 16]) + 1e-6))
    assert float(losses.charbonnier(difference)) == pytest.approx(expected, rel=1e-6)


def test_stage_loss_takes_edges_of_both_images(images):
    restored, target = images[:, 0], images[:, 1]
    edges = np.stack(
        [slow_pyramid_step(a) - slow_pyramid_step(b) for a, b in zip(restored, target)]
    )
    expected = sum(
        weight * np.mean(np.sqrt(d**2 + 1e-6))
        for weight, d in ((1, restored - target), (0.05, edges))
    )
    loss = losses.stage_loss(jnp.float32(restored), jnp.float32(target), LossConfig())
    assert float(loss) == pytest.approx(expected, rel=1e-5)  # float32 sums of 1152 values


def test_clipping_forgives_what_is_out_of_range():
    target = jnp.ones((1, 8, 8, 3))
    config = LossConfig(edge_weight=0, clip=True)
    # 1e-5 and 1e-4: some float32 roundings of a root.
    assert float(losses.stage_loss(1.5 * target, target, config)) == pytest.approx(1e-3, rel=1e-5)
    assert float(losses.stage_loss(0.5 * target, target, config)) == pytest.approx(0.5, rel=1e-4)


def test_laplacian_choice_changes_the_loss(images):
    restored, target = jnp.float32(images[:, 0]), jnp.float32(images[:, 1])
    pyramid, operator = (
        losses.stage_loss(restored, target, LossConfig(laplacian=name))
        for name in ("pyramid", "operator")
    )
    assert abs(float(pyramid) - float(operator)) > 1e-3


def test_one_loss_a_stage(images):
    stages = jnp.float32(images.swapaxes(0, 1))
    target = stages[0]
    values = losses.stage_losses(list(stages), target, LossConfig())
    assert len(values) == 3
    assert float(values[0]) == pytest.approx(1.05e-3, rel=1e-4)  # perfect: (1 + 0.05) * eps
    assert float(values[1]) > 0.1
