"""MPRNet, multi-stage progressive image restoration, in JAX and Flax."""

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.mprnet import MPRNet

__all__ = ["MPRNet", "ModelConfig"]
