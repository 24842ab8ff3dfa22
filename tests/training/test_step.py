import dataclasses
import functools

import jax
import numpy as np
import pytest

from mprnet_jax.config import DataConfig, OptimConfig, TrainConfig
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import jit
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.build import build_train_step
from mprnet_jax.training.state import SPIKE_WINDOW
from mprnet_jax.training.step import psnr, to_float, validation_step

OPTIM = OptimConfig(learning_rate=1e-3)


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [
        {name: rng.integers(0, 256, (4, 16, 16, 3), np.uint8) for name in ("degraded", "target")}
        | {"unreadable": np.zeros(4, bool)}
        for _ in range(5)
    ]


def make(model, mesh, optim=OPTIM, mixup_from_step=0, accumulate=1):
    """A compiled step and the state before it."""
    config = TrainConfig(
        name="test",
        model=model,
        data=DataConfig(mixup_from_step=mixup_from_step),
        optim=optim,
        total_steps=10,
        accumulate=accumulate,
    )
    init, _ = pure_functions(model)
    # Without donation, since tests go back to earlier states.
    init_state, step = build_train_step(config, mesh, init(0), jit=jit_without_donation)
    return step, init_state()


def jit_without_donation(function, donate_argnums, **options):
    return jit(function, **options)


@pytest.fixture(scope="module")
def two_stages(make_tiny_model):
    """A network of two short stages, where the step matters and not the network."""
    return dataclasses.replace(make_tiny_model(), stages="orsnet+orsnet")


@pytest.fixture(scope="module")
def one_device(two_stages):
    """The step on one device with a moving average and a limit to spikes, and the state before."""
    optim = dataclasses.replace(OPTIM, ema_decay=0.25, spike_factor=50.0)
    return make(two_stages, meshes.make_mesh(1, 1), optim)


def run(made, batches, mesh):
    """The metrics of one step after another."""
    step, state = made
    history = []
    for batch in batches:
        state, metrics = step(state, meshes.put_batch(batch, mesh))
        history.append(jax.device_get(metrics))
    assert int(state.step) == len(batches)
    return history


def test_eight_devices_train_as_one_does(tiny_model, batches):
    tiny_model.stages = "unet+orsnet"
    single, sharded = (
        run(make(tiny_model, mesh, mixup_from_step=2), batches, mesh)
        for mesh in (meshes.make_mesh(1, 1), meshes.make_mesh(4, 2))
    )
    for one, eight in zip(single, sharded):
        # 1e-5: sums over devices run in another order, and five steps carry that on.
        for name in ("loss", "loss_stage1", "loss_stage2"):
            assert eight[name] == pytest.approx(one[name], rel=1e-5)


def test_no_maps_are_gathered_where_patches_are_joined(tiny_model):
    patches = np.zeros((8, 32, 32, 3), np.uint8)  # the compiler gathered 5 times by itself
    mesh = meshes.make_mesh(4, 2)
    step, state = make(tiny_model, mesh)
    batch = meshes.put_batch(
        {"degraded": patches, "target": patches, "unreadable": np.zeros(8, bool)}, mesh
    )
    text = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in text  # of the gradients
    assert "all-gather" not in text


def test_loss_is_the_sum_of_its_stages_and_falls(one_device, batches):
    history = run(one_device, batches[:1] * 5, meshes.make_mesh(1, 1))
    for metrics in history:
        stages = sum(metrics[f"loss_stage{i}"] for i in (1, 2))
        assert metrics["loss"] == pytest.approx(stages, rel=1e-6)
        assert metrics["gradient_norm"] > 0
    assert history[-1]["loss"] < history[0]["loss"]


def test_parts_of_a_batch_in_turn_train_as_the_whole_does(two_stages, one_device, batches):
    whole = run(one_device, batches, meshes.make_mesh(1, 1))
    mesh = meshes.make_mesh(2, 1)
    parts = run(make(two_stages, mesh, accumulate=2), batches, mesh)
    for one, two in zip(whole, parts):
        # 1e-5: sums in another order, and five steps carry that on.
        for name in ("loss", "loss_stage1", "loss_stage2", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-5 if "loss" in name else 1e-4)


def as_floats(batch):
    return {k: np.float32(v) / 255 if k != "unreadable" else v for k, v in batch.items()}


def as_bytes(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_a_step_that_is_not_finite_changes_nothing(one_device, batches):
    step, state = one_device
    floats = [as_floats(batch) for batch in batches]
    state, metrics = step(state, floats[0])
    assert metrics["skipped"] == 0
    before = as_bytes(state)
    for name, value in (("degraded", np.nan), ("target", np.inf), ("degraded", 1e38)):
        bad = {k: v.copy() for k, v in floats[1].items()}
        bad[name][0, 3, 4, 1] = value
        state, metrics = step(state, bad)
        assert metrics["skipped"] == 1
        assert as_bytes(state) == before
    state, metrics = step(state, floats[1])
    assert metrics["skipped"] == 0
    assert as_bytes(state) != before


def test_a_spike_is_skipped_once_the_usual_norm_is_known(one_device, batches):
    step, state = one_device
    floats = [as_floats(batch) for batch in batches]
    spike = floats[0] | {"degraded": 1e4 * floats[0]["degraded"]}
    _, early = step(state, spike)
    assert early["skipped"] == 0  # nothing to compare with yet
    for i in range(SPIKE_WINDOW):
        state, metrics = step(state, floats[i % len(floats)])
        assert metrics["skipped"] == 0
    before = as_bytes(state)
    state, metrics = step(state, spike)
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1
    assert as_bytes(state) == before


def test_moving_average_follows_the_parameters(one_device, batches):
    step, state = one_device
    expected = jax.tree.map(np.float64, state.params)
    for number, batch in enumerate(batches):
        state, _ = step(state, batch)
        decay = min(0.25, (1 + number) / (10 + number))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.params)
    # 1e-6: float32 against float64 on values below 1.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.eval_params, expected
    )
    assert state.eval_params is state.ema


def test_psnr():
    image = np.full((2, 4, 4, 3), 0.5, np.float32)
    noisy = image + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    # Float32 keeps about 6 digits of a difference of 0.01 around 0.5: 1e-4 relative.
    np.testing.assert_allclose(psnr(noisy, image), [20, 40], rtol=1e-4)
    np.testing.assert_allclose(psnr(image + 2, np.ones_like(image)), [100, 100])  # clipped, capped


def test_validation_scores_input_and_stages(two_stages, batches):
    init, apply = pure_functions(two_stages)
    result = jax.jit(functools.partial(validation_step, apply=apply))(init(0), batches[0])
    degraded, target = batches[0]["degraded"] / 255, batches[0]["target"] / 255
    images = [degraded, *np.asarray(result["images"], np.float64)]
    errors = [np.mean((np.clip(x, 0, 1) - target) ** 2, axis=(1, 2, 3)) for x in images]
    np.testing.assert_allclose(result["psnr"], -10 * np.log10(errors), rtol=1e-5)  # float32 means


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_1_whatever_the_depth(dtype):
    images = np.array([0, np.iinfo(dtype).max // 5, np.iinfo(dtype).max], dtype)
    floats = to_float(jax.numpy.asarray(images))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, [0, 0.2, 1], rtol=1e-6)  # float32 has 7 digits
