"""Uses a trained network as a part of a JAX program: here, a denoised photo at half its size.

    python examples/restore_in_jax.py photo.png half.png

The program is jitted as a whole, and may be differentiated, mapped and sharded like any other.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files


def main(photo, output, weights="denoise"):
    trained = files.read(weights)
    _, apply = pure_functions(trained.config)

    @jax.jit
    def program(params, image):  # uint8 [H, W, 3] with sides of any length
        height, width = image.shape[:2]
        padding = [(0, -height % 8), (0, -width % 8), (0, 0)]  # the network wants multiples of 8
        images = jnp.pad(image, padding, mode="reflect")[None] / 255
        restored = apply(params, images)[0][0, :height, :width]  # of the last stage, not clipped
        half = jax.image.resize(restored, (height // 2, width // 2, 3), "linear")
        return jnp.round(jnp.clip(half, 0, 1) * 255).astype(jnp.uint8)

    image = np.asarray(Image.open(photo).convert("RGB"))
    Image.fromarray(np.asarray(program(trained.params, image))).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
