"""What is no photo is refused in words that say what to pass; arrays of JAX are photos."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch

from mprnet_jax.restoration import arrays
from mprnet_jax.restoration.restorer import Restorer

PHOTO = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture
def restorer(stub) -> Restorer:
    return Restorer(stub)


@pytest.fixture
def refuse(restorer):
    """Checks that all ways into a restorer refuse a photo alike."""

    def check(photo, kind, message):
        for way in (restorer, restorer.stages_of, lambda photo: restorer.batch([PHOTO, photo])):
            with pytest.raises(kind, match=message):
                way(photo)

    return check


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (
            PIL.Image.fromarray(PHOTO),
            r'photo is a Image: .*; pass np\.asarray\(photo\.convert\("RGB"',
        ),
        (PHOTO.tolist(), r"photo is a list: .*; pass np\.asarray\(photo\)"),
        (torch.zeros(3, 4, 5), r"photo is a Tensor: .*; pass photo\.permute\(1, 2, 0\)\.cpu\(\)"),
        ("photo.png", r"photo is a str: .*; pass what is in the file: np\.asarray\(PIL\.Image"),
        (Path("photo.png"), r"photo is a \w*Path: .*; pass what is in the file"),
        (None, "photo is a NoneType: must be an array of NumPy or JAX"),
        (3.5, "photo is a float: must be an array"),
    ],
)
def test_other_objects_are_refused_with_what_to_pass(restorer, refuse, photo, message):
    refuse(photo, TypeError, message)
    with pytest.raises(TypeError, match=message):
        restorer.grid_of(photo)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 40, 50), r"photo has shape \(3, 40, 50\): .*; pass photo\.transpose\(1, 2, 0\)"),
        ((40, 50), r"pass np\.stack\(\[photo\] \* 3, axis=2\)"),
        ((40, 50, 1), r"pass np\.repeat\(photo, 3, axis=2\)"),
        ((40, 50, 4), r"pass photo\[\.\.\., :3\]"),
        ((1, 40, 50, 3), r"pass one photo of a batch at a time, or list\(photos\) to `batch`"),
        ((1, 3, 40, 50), "pass one photo of a batch at a time"),
        ((40, 50, 2), "not empty$"),
        ((0, 50, 3), "not empty$"),
        ((), "not empty$"),
    ],
)
def test_other_shapes_are_refused_with_what_to_pass(restorer, refuse, shape, message):
    for make in (np.zeros, jnp.zeros):
        refuse(make(shape, np.uint8), ValueError, message)
        with pytest.raises(ValueError, match=message):
            restorer.grid_of(make(shape, np.uint8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 255.0], r"photo has values from 0 to 255: .*in \[0, 1\]; pass photo / 255"),
        ([-0.1, 1.0], r"values from -0\.1 to 1: .*; pass np\.clip\(photo, 0, 1\)"),
        ([0.0, 1.02], r"pass np\.clip\(photo, 0, 1\)"),
        ([0.0, 4000.0], r"pass np\.clip\(photo, 0, 1\)"),
        ([0.5, np.nan], r"photo has NaN or infinite values: floats must be in \[0, 1\]"),
        ([0.5, np.inf], "NaN or infinite"),
        ([-np.inf, 0.5], "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_floats_outside_0_to_1_are_refused_with_what_to_pass(refuse, values, message, dtype):
    if dtype == jnp.bfloat16:
        message = message.replace(r"-0\.1", r"-0\.1\d*")
    if dtype == np.float16:
        message = message.replace(r"-0\.1", r"-0\.0?[19]\d*")
    photo = np.resize(np.array(values, dtype), (4, 5, 3))
    refuse(photo, ValueError, message)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, bool, np.complex64, object, "datetime64[s]"])
def test_other_types_are_refused_with_what_to_pass(refuse, dtype):
    refuse(
        PHOTO.astype(dtype), ValueError, r"photo has dtype .*: must be uint8, .*; pass photo\.as"
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, jnp.bfloat16])
def test_arrays_of_jax_give_what_those_of_numpy_give(restorer, photo, dtype):
    array = photo(8, 9, np.uint16).astype(np.float32) / 65535
    array = (array * 255).astype(dtype) if np.dtype(dtype).kind == "u" else array.astype(dtype)
    found = restorer(jnp.asarray(array))
    assert type(found) is np.ndarray
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, restorer(array))


def test_views_are_photos_like_others(restorer, photo):
    image = photo(8, 18)
    np.testing.assert_array_equal(restorer(image[:, ::2]), restorer(image[:, ::2].copy()))
    image.setflags(write=False)
    before = image.copy()
    restorer(image)
    np.testing.assert_array_equal(image, before)


def test_the_ends_of_the_range_are_in_it():
    arrays.check_values(np.array([0.0, 1.0]))


@pytest.mark.parametrize("model", ["derain.safetensors", None, {}, torch.nn.Linear(1, 1)])
def test_what_is_no_network_is_refused_with_what_to_pass(model):
    with pytest.raises(
        TypeError, match=r"model is a \w+: must be a network; pass mprnet_jax\.load"
    ):
        Restorer(model)
