"""MPRNet, multi-stage progressive image restoration, in JAX and Flax."""
# ruff: noqa: E402

from mprnet_jax import console

console.watch_imports()  # first, as what follows takes seconds

from mprnet_jax.config import ModelConfig, TrainConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import MPRNet
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.version import __version__
from mprnet_jax.weights.files import load

__all__ = [
    "MPRNet",
    "ModelConfig",
    "Restorer",
    "TrainConfig",
    "UserError",
    "__version__",
    "load",
]
