import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mprnet_jax.devices import mesh as meshes
from mprnet_jax.errors import UserError


@pytest.mark.parametrize(
    ("data", "height", "shape"),
    [(-1, 1, (8, 1)), (2, -1, (2, 4)), (1, 1, (1, 1)), (-1, 3, (2, 3)), (-1, 8, (1, 8))],
)
def test_minus_one_takes_the_rest(data, height, shape):
    mesh = meshes.make_mesh(data, height)
    assert (mesh.shape["data"], mesh.shape["height"]) == shape


@pytest.mark.parametrize(
    ("data", "height", "message"),
    [
        (16, 1, "needs 16 devices, but there are 8"),
        (-1, 16, "needs 16 devices"),
        (-1, -1, "both -1"),
        (0, 1, "mesh.data=0"),
    ],
)
def test_impossible_meshes_are_told(data, height, message):
    with pytest.raises(UserError, match=message):
        meshes.make_mesh(data, height)


def test_batches_and_rows_must_divide():
    mesh = meshes.make_mesh(4, 2)
    meshes.check_divides(mesh, batch_size=8, patch_size=64)
    with pytest.raises(UserError, match=r"batch_size=6 .* mesh.data=4"):
        meshes.check_divides(mesh, batch_size=6, patch_size=64)
    with pytest.raises(UserError, match=r"patches of 9 pixels .* mesh.height=2"):
        meshes.check_divides(mesh, batch_size=8, patch_size=9)


@pytest.mark.parametrize("put", [meshes.put_images, meshes.put_same_images])
def test_images_lie_over_data_and_rows_over_height(put):
    images = np.arange(4 * 8 * 2 * 3, dtype=np.uint8).reshape(4, 8, 2, 3)
    placed = put({"target": images}, meshes.make_mesh(4, 2))["target"]
    assert placed.sharding.spec == PartitionSpec("data", "height")
    assert placed.addressable_shards[0].data.shape == (1, 4, 2, 3)
    np.testing.assert_array_equal(jax.device_get(placed), images)
