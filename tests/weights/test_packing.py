import jax
import jax.numpy as jnp
import numpy as np

from mprnet_jax.weights.packing import empty_pack, join, pack, split, unpack


def test_what_was_packed_comes_back():
    tree = {
        "a": [jnp.arange(6.0).reshape(2, 3), jnp.int32(7)],
        "b": (jnp.ones(3, jnp.bfloat16), None, jnp.float32(0.5)),
    }
    packed = pack(tree)
    assert {name: vector.size for name, vector in packed.items()} == {
        "float32": 7,
        "int32": 1,
        "bfloat16": 3,
    }
    likewise = empty_pack(jax.eval_shape(lambda: tree))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), likewise) == jax.tree.map(
        lambda x: (x.shape, x.dtype), packed
    )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
    again = unpack(packed, shapes)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
        assert (ours.dtype, ours.sharding) == (theirs.dtype, device)
        np.testing.assert_array_equal(ours, theirs)


def test_packed_values_are_copies():
    array = np.zeros(3)
    packed = pack([array])
    array[:] = 1
    assert not packed["float64"].any()


def test_a_vector_is_split_into_what_was_joined():
    rng = np.random.default_rng(0)
    tree = {"a": [np.float32(rng.random((2, 3))), np.float32(0.5)], "b": np.float32(rng.random(4))}
    vector = join(tree)
    assert (vector.shape, vector.dtype) == ((11,), np.float32)
    for again in (split(vector, tree), split(jnp.asarray(vector), tree)):
        jax.tree.map(np.testing.assert_array_equal, again, tree)
    assert split(vector, tree)["b"].base is not None  # no copy

    def energy(vector):
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(split(vector, tree)))

    np.testing.assert_array_equal(jax.jit(jax.grad(energy))(vector), 2 * vector)


def test_a_state_of_vectors_packs_as_one_of_pytrees():
    tree = {"b": np.float32([1, 2]), "a": {"c": np.float32([[3], [4]])}}
    moments = {"count": np.int32(5), "mu": tree, "nu": jax.tree.map(np.negative, tree)}
    joined = moments | {"mu": join(tree), "nu": join(moments["nu"])}
    jax.tree.map(np.testing.assert_array_equal, pack(joined), pack(moments))
