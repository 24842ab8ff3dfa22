"""A checkpoint whose arrays are not those of the run is refused by name, never mixed up."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints, record_hash
from mprnet_jax.weights.packing import join
from mprnet_jax.weights.structure import describe


class Adam(NamedTuple):
    count: Any
    mu: Any
    nu: Any


class Renamed(NamedTuple):
    count: Any
    mu: Any
    variance: Any


class Reordered(NamedTuple):
    count: Any
    nu: Any
    mu: Any


PARAMS = {"conv": {"bias": np.ones(3, np.float32), "kernel": np.ones((2, 3), np.float32)}}


def moment(value):
    return jax.tree.map(lambda leaf: np.full_like(leaf, value), PARAMS)


STATE = {"opt_state": (Adam(np.int32(7), moment(1), moment(2)),), "norms": np.zeros(4, np.float32)}


def shapes(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


def save(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(Checkpoint(1, PARAMS, STATE, {"batches": 1}))


def load(folder, params=PARAMS, training_state=STATE):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.load_newest(shapes(params), shapes(training_state))


def with_optimizer(state):
    return STATE | {"opt_state": (state,)}


@pytest.mark.parametrize(
    ("training_state", "found", "wanted"),
    [
        (
            with_optimizer(Renamed(*STATE["opt_state"][0])),
            "opt_state.0.nu.conv.bias",
            "opt_state.0.variance.conv.bias",
        ),
        (
            with_optimizer(Reordered(np.int32(7), moment(2), moment(1))),
            "opt_state.0.mu.conv.bias",
            "opt_state.0.nu.conv.bias",
        ),
        (STATE | {"norms": np.zeros(5, np.float32)}, "norms float32[4]", "norms float32[5]"),
        (STATE | {"norms": np.zeros(4, np.int32)}, "norms float32[4]", "norms int32[4]"),
        ({"opt_state": STATE["opt_state"]}, "norms", "opt_state.0.count"),
        (STATE | {"step": np.int32(1)}, "nothing", "step int32[]"),
    ],
    ids=["renamed", "reordered", "shape", "dtype", "unexpected", "missing"],
)
def test_another_training_state_is_refused_by_name(tmp_path, training_state, found, wanted):
    save(tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path, training_state=training_state)
    assert f"checkpoints/1: holds {found}" in str(caught.value)
    assert f"where this run needs {wanted}" in str(caught.value)
    assert f"--config.init_from={tmp_path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoints/1").is_dir()  # not taken for damaged
    assert load(tmp_path).step == 1


def test_other_parameters_are_refused_by_name(tmp_path):
    save(tmp_path)
    other = {"convolution": PARAMS["conv"]}
    with pytest.raises(UserError, match=r"holds conv\.bias .* needs convolution\.bias"):
        load(tmp_path, params=other)
    with (
        pytest.raises(UserError, match=r"holds conv\.bias .* needs convolution\.bias"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.load_best(shapes(other))
    assert load(tmp_path).step == 1


def test_a_vector_of_all_parameters_is_described_as_them():
    joined = with_optimizer(Adam(np.int32(7), join(moment(1)), join(moment(2))))
    described = describe(joined, PARAMS)
    assert described == describe(STATE, PARAMS)
    assert described == describe(jax.eval_shape(lambda: joined), shapes(PARAMS))
    assert described == [
        "norms float32[4]",
        "opt_state.0.count int32[]",
        "opt_state.0.mu.conv.bias float32[3]",
        "opt_state.0.mu.conv.kernel float32[2,3]",
        "opt_state.0.nu.conv.bias float32[3]",
        "opt_state.0.nu.conv.kernel float32[2,3]",
    ]


def test_a_checkpoint_of_an_older_version_loads(tmp_path):
    save(tmp_path)
    step = tmp_path / "checkpoints/1"
    record = json.loads((step / "record/metadata").read_text())
    hashes = record.pop("sha256")
    del record["layout"]
    hashes["record"] = record_hash(record)
    (step / "record/metadata").write_text(json.dumps(record | {"sha256": hashes}))
    for path in step.glob("*/_METADATA.sha256"):
        path.unlink()
    loaded = load(tmp_path)
    assert loaded.record == {"batches": 1}
    jax.tree.map(np.testing.assert_array_equal, loaded.training_state, STATE)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, PARAMS)


def test_a_damaged_structure_is_damage(tmp_path):
    save(tmp_path)
    record = tmp_path / "checkpoints/1/record/metadata"
    record.write_text(record.read_text().replace("norms", "Norms"))
    with pytest.raises(UserError, match="the saved hash of its record does not match"):
        load(tmp_path)


def test_the_structure_is_that_of_the_packed_vector():
    state = {"b": jnp.zeros(2), "a": (jnp.ones(()), None)}
    assert describe(state, PARAMS) == ["a.0 float32[]", "b float32[2]"]
