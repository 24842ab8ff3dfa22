"""What tests of restoring share."""

import jax.numpy as jnp
import pytest
from flax import nnx

from mprnet_jax import ModelConfig, MPRNet
from mprnet_jax.model.canvas import Canvas
from mprnet_jax.model.mprnet import check_images, pure_functions, unconstrained, with_params


class Stub(nnx.Module):
    """Stands in for the network where only its calls matter: brightens by half the mean, and more
    to the right; fast to compile.
    """

    def __init__(self):
        self.config = ModelConfig(width=4, unet_growth=2, orsnet_growth=3, cabs_per_orb=1)

    def __call__(self, images, stages, pool, constrain=unconstrained, sizes=None):
        check_images(images)
        canvas = Canvas(*images.shape[1:3], sizes)
        slope = 0.001 * jnp.arange(images.shape[2])[:, None]
        means = pool(canvas.mask(images), canvas)
        return [images + slope + means / (2 + i) for i in range(stages)]


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture(scope="session")
def short() -> MPRNet:
    """An untrained network of two short stages, for tests that need just any."""
    sizes = {"width": 4, "unet_growth": 2, "orsnet_growth": 3, "cabs_per_orb": 1}
    config = ModelConfig(**sizes, stages="orsnet+orsnet")
    return with_params(config, pure_functions(config)[0](0))


@pytest.fixture(scope="session")
def model() -> MPRNet:
    """A small network with all parts but a second U-Net, untrained."""
    sizes = {"width": 4, "unet_growth": 2, "orsnet_growth": 3, "cabs_per_orb": 1}
    config = ModelConfig(**sizes, stages="unet+orsnet")
    return with_params(config, pure_functions(config)[0](0))
