import functools

import jax
import numpy as np
import pytest

from mprnet_jax.config import LossConfig, OptimConfig
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import jit
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.mixup import mixup
from mprnet_jax.training.optimizer import make_optimizer
from mprnet_jax.training.state import create_state
from mprnet_jax.training.step import psnr, train_step, validation_step


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [
        {name: rng.integers(0, 256, (4, 16, 16, 3), np.uint8) for name in ("degraded", "target")}
        for _ in range(5)
    ]


def compile_step(config, batch, mesh, mix=None):
    """The first state, and the step compiled for batches like this one."""
    init, apply = pure_functions(config)
    apply = functools.partial(apply, place=meshes.placement(mesh))
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3), total_steps=10)
    copies, images = meshes.replicated(mesh), meshes.image_sharding(mesh)
    step = jit(
        functools.partial(train_step, apply=apply, optimizer=optimizer, loss=LossConfig(), mix=mix),
        in_shardings=(copies, images),
        out_shardings=copies,
    )
    state = jax.device_put(create_state(init(0), optimizer), copies)
    return state, step.lower(state, meshes.put_batch(batch, mesh)).compile()


def run(config, batches, mesh, mix=None):
    """The metrics of one step after another."""
    state, step = compile_step(config, batches[0], mesh, mix)
    history = []
    for batch in batches:
        state, metrics = step(state, meshes.put_batch(batch, mesh))
        history.append(jax.device_get(metrics))
    assert int(state.step) == len(batches)
    return history


def test_eight_devices_train_as_one_does(tiny_model, batches):
    mix = functools.partial(mixup, seed=0, from_step=2)
    single = run(tiny_model, batches, meshes.make_mesh(1, 1), mix)
    sharded = run(tiny_model, batches, meshes.make_mesh(4, 2), mix)
    for one, eight in zip(single, sharded):
        # 1e-5: sums over devices run in another order, and five steps carry that on.
        for name in ("loss", "loss_stage1", "loss_stage2", "loss_stage3"):
            assert eight[name] == pytest.approx(one[name], rel=1e-5)


def test_no_maps_are_gathered_where_patches_are_joined(tiny_model):
    patches = np.zeros((8, 32, 32, 3), np.uint8)  # the compiler gathered 5 times by itself
    batch = {"degraded": patches, "target": patches}
    _, step = compile_step(tiny_model, batch, meshes.make_mesh(4, 2))
    text = step.as_text()
    assert "all-reduce" in text  # of the gradients
    assert "all-gather" not in text


def test_loss_is_the_sum_of_its_stages_and_falls(tiny_model, batches):
    history = run(tiny_model, batches[:1] * 5, meshes.make_mesh(1, 1))
    for metrics in history:
        stages = sum(metrics[f"loss_stage{i}"] for i in (1, 2, 3))
        assert metrics["loss"] == pytest.approx(stages, rel=1e-6)
        assert metrics["gradient_norm"] > 0
    assert history[-1]["loss"] < history[0]["loss"]


def test_psnr():
    image = np.full((2, 4, 4, 3), 0.5, np.float32)
    noisy = image + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    # Float32 keeps about 6 digits of a difference of 0.01 around 0.5: 1e-4 relative.
    np.testing.assert_allclose(psnr(noisy, image), [20, 40], rtol=1e-4)
    np.testing.assert_allclose(psnr(image + 2, np.ones_like(image)), [100, 100])  # clipped, capped


def test_validation_scores_input_and_stages(tiny_model, batches):
    init, apply = pure_functions(tiny_model)
    result = jax.jit(functools.partial(validation_step, apply=apply))(init(0), batches[0])
    degraded, target = batches[0]["degraded"] / 255, batches[0]["target"] / 255
    images = [degraded, *np.asarray(result["images"], np.float64)]
    errors = [np.mean((np.clip(x, 0, 1) - target) ** 2, axis=(1, 2, 3)) for x in images]
    np.testing.assert_allclose(result["psnr"], -10 * np.log10(errors), rtol=1e-5)  # float32 means
