import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mprnet_jax import ModelConfig, MPRNet
from mprnet_jax.config import REMATS
from mprnet_jax.model.mprnet import abstract_model, pure_functions
from mprnet_jax.model.subnets import Encoder


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 32, 48, 3), np.float32)


@pytest.fixture(scope="module")
def network(make_tiny_model):
    init, apply = pure_functions(make_tiny_model())
    return init(0), jax.jit(apply, static_argnames="stages")


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("derain", 3_637_249),
        ("denoise", 15_741_025),
        ("deblur", 20_127_073),
        ("deblur_light", 6_376_449),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset, count):
    config = getattr(ModelConfig, preset)()
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_model(config)[1])) == count


def test_fewer_stages_give_the_same_images(network, images):
    params, apply = network
    last, second, first = apply(params, images)
    assert last.shape == second.shape == first.shape == images.shape
    # Programs of other operations: sums in another order.
    np.testing.assert_allclose(apply(params, images, stages=1)[0], first, atol=1e-6)
    np.testing.assert_allclose(apply(params, images, stages=2), [second, first], atol=1e-6)


def test_a_stage_sees_its_patches_only(network, images):
    """Stage 1 restores each half on its own; from stage 2 on, the halves meet."""
    params, apply = network
    changed = images.copy()
    changed[:, :16] = 0
    before, after = apply(params, images), apply(params, changed)
    np.testing.assert_array_equal(before[2][:, 16:], after[2][:, 16:])
    assert np.abs(before[1][:, 16:] - after[1][:, 16:]).max() > 1e-4


def test_images_of_a_batch_do_not_mix(network, images):
    params, apply = network
    # 1e-6: another batch size may sum in another order.
    for whole, single in zip(apply(params, images), apply(params, images[1:])):
        np.testing.assert_allclose(whole[1:], single, atol=1e-6)


def test_drawn_parameters_are_those_of_the_module(tiny_model):
    """Same structure, shapes and types; uniform within the bound of PyTorch's default."""
    tiny_model.bias = True
    module = nnx.eval_shape(lambda: MPRNet(tiny_model, rngs=nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    drawn = pure_functions(tiny_model)[0](0)
    assert jax.tree.structure(shapes) == jax.tree.structure(drawn)
    for ours, theirs in zip(jax.tree.leaves(drawn), jax.tree.leaves(shapes)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    bound = (9 * 8) ** -0.5
    for values in drawn["concat12"].values():
        assert 0.5 * bound < np.abs(values).max() <= bound
    assert drawn["slope"] == [0.25]


def test_bfloat16_computes_roughly_the_same_and_returns_float32(tiny_model, images):
    init, apply = pure_functions(tiny_model)
    tiny_model.dtype = "bfloat16"
    _, apply16 = pure_functions(tiny_model)
    exact, rough = jax.jit(apply)(init(0), images)[0], jax.jit(apply16)(init(0), images)[0]
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05  # 8 bits of mantissa through some 30 layers


def test_every_parameter_has_a_gradient(tiny_model, images):
    tiny_model.width, tiny_model.reduction = 8, 2  # so that no ReLU of one unit is dead
    init, apply = pure_functions(tiny_model)
    total = jax.jit(jax.grad(lambda p: sum(jnp.sum(s**2) for s in apply(p, images))))
    for path, gradient in jax.tree_util.tree_leaves_with_path(total(init(0))):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 30, 32, 3), np.float32), "height=30 is not a positive multiple of 8"),
        (np.zeros((1, 32, 0, 3), np.float32), "width=0 is not a positive multiple of 8"),
        (np.zeros((32, 32, 3), np.float32), "shape"),
        (np.zeros((1, 32, 32, 4), np.float32), "shape"),
        (np.zeros((1, 32, 32, 3), np.uint8), "dtype uint8"),
    ],
)
def test_impossible_images_are_refused(network, images, message):
    params, apply = network
    with pytest.raises(ValueError, match=message):
        apply(params, images)


def test_impossible_stages_are_refused(network, images):
    params, apply = network
    with pytest.raises(ValueError, match="stages=4"):
        apply(params, images, stages=4)


def loss_of(config, images):
    """Parameters, and a scalar function of them."""
    init, apply = pure_functions(config)
    return init(0), lambda params: sum(jnp.mean(jnp.abs(s)) for s in apply(params, images))


def test_remat_keeps_less_for_backpropagation(tiny_model, images):
    kept = []
    for remat in REMATS:
        config = dataclasses.replace(tiny_model, stages="unet+orsnet", cabs_per_orb=4, remat=remat)
        params, loss = loss_of(config, images)
        _, pullback = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p), params)
        kept.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback)))
    assert kept == sorted(set(kept), reverse=True)


@pytest.mark.parametrize("csff", [False, True])
def test_an_encoder_gets_features_of_the_stage_before_if_and_only_if_it_has_csff(tiny_model, csff):
    encoder = Encoder(tiny_model, csff=csff, rngs=nnx.Rngs(0))
    with pytest.raises(AssertionError, match="if and only if there is CSFF"):
        encoder(jnp.zeros((1, 8, 8, tiny_model.width)), None, () if csff else ((), ()))
