"""The table of names is complete and strict, and kernels get the right layout."""

import jax
import numpy as np
import pytest

from mprnet_jax import ModelConfig
from mprnet_jax.config import PUBLISHED
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import abstract_model
from mprnet_jax.weights import names, torch_reference

SMALL = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)
CONFIGS = {
    **PUBLISHED,
    "odd, with biases": ModelConfig(13, 5, 3, reduction=3, cabs_per_orb=2, bias=True),
    "no growth": ModelConfig(8, 0, 0, reduction=8, cabs_per_orb=1),
}


def our_shapes(config: ModelConfig) -> dict:
    """Shapes of the parameters of our network, nested."""
    return jax.tree.map(lambda leaf: leaf.shape, abstract_model(config)[1])


def random_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Official tensors with numbers that differ between all of them."""
    rng = np.random.default_rng(0)
    return {
        entry.official_name: np.full(1, 0.3, np.float32)
        if entry.our_path == "slope"
        else rng.standard_normal(entry.shape, np.float32)
        for entry in names.name_table(config)
    }


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_table_names_every_tensor_of_the_reference(config):
    entries = names.name_table(config)
    reference = torch_reference.build(config).state_dict()
    assert {entry.official_name: entry.shape for entry in entries} == {
        name: tuple(tensor.shape) for name, tensor in reference.items()
    }


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_config_is_inferred_from_the_shapes(config):
    inferred = names.infer_config(
        {entry.official_name: entry.shape for entry in names.name_table(config)}
    )
    assert names.name_table(inferred) == names.name_table(config)
    if config.reduction == 4:  # other values may make the same network
        assert inferred == config


def test_params_are_those_of_our_network():
    for config in (SMALL, CONFIGS["odd, with biases"]):
        _, params = names.from_official(random_weights(config))
        assert jax.tree.map(np.shape, params) == our_shapes(config)


def test_there_and_back_is_bit_identical():
    weights = random_weights(CONFIGS["odd, with biases"])
    config, params = names.from_official(weights)
    back = names.to_official(config, params)
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


def test_kernels_become_rows_columns_in_out():
    weights = random_weights(SMALL)
    _, params = names.from_official(weights)
    kernel = params["concat12"]["kernel"]
    assert kernel[0, 2, 5, 7] == weights["concat12.weight"][7, 5, 0, 2]
    gate = params["sam12"]["gate"]["kernel"]
    assert gate[2, 7] == weights["sam12.conv3.weight"][7, 2, 0, 0]


def test_params_of_another_size_are_refused():
    config, params = names.from_official(random_weights(SMALL))
    with pytest.raises(UserError, match=r"23 wrongly shaped: concat23.*13 more"):
        names.to_official(ModelConfig(8, 4, 5, cabs_per_orb=1), params)
    with pytest.raises(UserError, match=r"missing: orsnet\.orbs\.0\.body\.cabs\.1"):
        names.to_official(ModelConfig(8, 4, 4, cabs_per_orb=2), params)
    with pytest.raises(UserError, match="1 unexpected: momentum"):
        names.to_official(config, {**params, "momentum": np.zeros(1)})


def test_all_problems_are_in_one_message():
    weights = random_weights(SMALL)
    del weights["shallow_feat1.0.weight"], weights["stage3_orsnet.orb2.body.1.weight"]
    weights["optimizer.step"] = np.zeros(1, np.float32)
    weights["tail.weight"] = weights["tail.weight"][:, :-1]
    weights["sam12.conv1.weight"] = weights["sam12.conv1.weight"].astype(np.int32)
    weights["stage2_decoder.skip_attn1.body.1.weight"] = np.full(1, 0.4, np.float32)
    with pytest.raises(UserError) as caught:
        names.from_official(weights)
    assert str(caught.value) == (
        "2 missing: shallow_feat1.0.weight, stage3_orsnet.orb2.body.1.weight; "
        "1 unexpected: optimizer.step; "
        "1 wrongly shaped: tail.weight [3, 11, 3, 3] in place of [3, 12, 3, 3]; "
        "1 not floats: sam12.conv1.weight int32; "
        "1 unlike the other copies of PReLU's slope: stage2_decoder.skip_attn1.body.1.weight"
    )


@pytest.mark.parametrize("name", [entry.official_name for entry in names.name_table(SMALL)][::7])
def test_a_single_odd_tensor_is_found_odd(name):
    whole = random_weights(SMALL)
    with pytest.raises(UserError, match=f"^1 missing: {name}$"):
        names.from_official({key: whole[key] for key in whole if key != name})
    with pytest.raises(UserError, match=f"^1 wrongly shaped: {name}"):
        names.from_official({**whole, name: np.zeros((9, 9, 3, 3), np.float32)})


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"layer1.0.conv1.weight": np.zeros((64, 64, 3, 3), np.float32)},
        {"shallow_feat1.0.weight": np.zeros((0, 10**9, 3, 3), np.float32)},
    ],
)
def test_other_networks_weights_are_refused(weights):
    with pytest.raises(UserError, match="not the weights of an MPRNet"):
        names.from_official(weights)


def test_long_lists_and_wild_names_stay_one_readable_line():
    wild = {f"line\n{i}" + "x" * 10_000: np.zeros(1, np.float32) for i in range(1000)}
    with pytest.raises(UserError) as caught:
        names.from_official({**random_weights(SMALL), **wild})
    message = str(caught.value)
    assert "1000 unexpected" in message
    assert "990 more" in message
    assert "\n" not in message
    assert len(message) < 2000
