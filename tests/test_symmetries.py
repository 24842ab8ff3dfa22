import numpy as np
import pytest

from mprnet_jax.symmetries import apply_symmetry, invert_symmetry


def coordinates(height: int, width: int) -> np.ndarray:
    """An image [H, W, 2] whose pixels are their own coordinates."""
    return np.stack(np.mgrid[:height, :width], axis=-1).astype(np.uint8)


def test_symmetries_are_the_eight_of_the_square():
    image = coordinates(4, 4)
    images = [apply_symmetry(image, index) for index in range(8)]
    assert len({each.tobytes() for each in images}) == 8
    for each in images:  # neighbours stay neighbours
        assert np.abs(np.diff(each.astype(int), axis=0)).sum(axis=-1).max() == 1
    np.testing.assert_array_equal(images[0], image)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("shape", [(3, 5, 2), (2, 3, 5, 2)])
def test_the_inverse_undoes_a_symmetry(index, shape):
    image = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(invert_symmetry(apply_symmetry(image, index), index), image)


@pytest.mark.parametrize("index", range(8))
def test_the_training_stream_keeps_its_convention(index):
    image = coordinates(3, 5)
    rotated = np.rot90(image, index % 4)
    expected = rotated[:, ::-1] if index >= 4 else rotated
    np.testing.assert_array_equal(apply_symmetry(image, index), expected)
