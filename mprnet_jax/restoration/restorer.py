"""Restores single photos of any size with a trained network.

Photos are [H, W, 3]: uint8, uint16, or floats in [0, 1]. What goes in comes out: the same size and
type, integers clipped and rounded, floats neither.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mprnet_jax.devices import compiling
from mprnet_jax.model.mprnet import SIZE_MULTIPLE, MPRNet


class Restorer:
    """Restores photos: `Restorer(mprnet_jax.load("derain.safetensors"))(photo)`."""

    def __init__(self, model: MPRNet, stages: int = 3):
        """`stages`: how many of the network's stages to compute, 1, 2 or 3; fewer are faster."""
        if stages not in (1, 2, 3):
            raise ValueError(f"stages={stages}: must be 1, 2 or 3")
        graph, self._parameters = nnx.split(model)

        def restore(parameters: nnx.State, photo: jax.Array) -> list[jax.Array]:
            model = nnx.merge(graph, parameters)
            restored = model(to_floats(photo)[None], stages)
            return [from_floats(image[0], photo.dtype) for image in restored]

        self._restore = compiling.jit(restore)  # compiles once for each padded size

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Restores one photo [H, W, 3], whose sides may be of any length from 1 up."""
        return self.stages_of(photo)[0]

    def stages_of(self, photo: np.ndarray) -> list[np.ndarray]:
        """The images that all computed stages make of one photo [H, W, 3], the last stage first."""
        check_photo(photo)
        height, width, _ = photo.shape
        restored = self._restore(self._parameters, pad(photo, SIZE_MULTIPLE))
        return [np.asarray(image)[:height, :width].astype(photo.dtype) for image in restored]


def to_floats(photo: jax.Array) -> jax.Array:
    """Integers to floats in [0, 1]; floats to float32."""
    floats = photo.astype(jnp.float32)
    return floats / jnp.iinfo(photo.dtype).max if is_integer(photo) else floats


def from_floats(image: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Undoes `to_floats`; integers are clipped and rounded, floats stay float32."""
    if not jnp.issubdtype(dtype, jnp.integer):
        return image
    largest = jnp.iinfo(dtype).max
    return jnp.round(jnp.clip(image, 0, 1) * largest).astype(dtype)


def is_integer(photo: jax.Array | np.ndarray) -> bool:
    """Whether the photo holds integers."""
    return jnp.issubdtype(photo.dtype, jnp.integer)


def pad(photo: np.ndarray, multiple: int) -> np.ndarray:
    """Grows the photo to the right and to the bottom by its reflection, to multiples of `multiple`.

    A side too short to fill the margin is reflected repeatedly; a side of one pixel is repeated.
    """
    height, width, _ = photo.shape
    return np.pad(photo, ((0, -height % multiple), (0, -width % multiple), (0, 0)), "reflect")


def check_photo(photo: np.ndarray) -> None:
    """Raises ValueError unless the photo is [H, W, 3], not empty, and of a known type."""
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"photo has shape {photo.shape}: must be [height, width, 3], not empty")
    if photo.dtype not in (np.uint8, np.uint16) and not jnp.issubdtype(photo.dtype, jnp.floating):
        raise ValueError(
            f"photo has dtype {photo.dtype}: must be uint8, uint16 or floats in [0, 1]"
        )
