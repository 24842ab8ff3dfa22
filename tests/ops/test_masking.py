import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.ops.masking import mask, mask_pairs, mask_pixels


@pytest.mark.parametrize("shape", [(1, 8, 12, 40), (2, 8, 12, 8), (2, 8, 11, 8), (2, 8, 12, 3)])
def test_maps_are_masked_in_pairs_as_they_are_pixel_by_pixel(shape):
    x = np.random.default_rng(0).random(shape, np.float32)
    heights, widths = (jnp.array(n[: shape[0]]).reshape(-1, 1, 1, 1) for n in ([3, 8], [7, 2]))
    expected = x.copy()
    for image, height, width in zip(expected, (3, 8), (7, 2)):
        image[height:] = image[:, width:] = 0
    for way in (mask, mask_pixels, mask_pairs):
        np.testing.assert_array_equal(jax.jit(way)(x, heights, widths), expected)
