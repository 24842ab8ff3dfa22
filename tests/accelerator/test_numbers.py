"""An accelerator computes in float32 what PyTorch and the CPU compute, and compiles once.

Matrix products have the highest precision: by default GPUs and TPUs multiply float32 in shorter
formats.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from mprnet_jax import Restorer
from mprnet_jax.config import LossConfig, ModelConfig, OptimConfig
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.training.optimizer import make_optimizer
from mprnet_jax.training.state import create_state
from mprnet_jax.training.step import train_step
from mprnet_jax.weights import names, torch_reference

SMALL = ModelConfig(width=16, unet_growth=8, orsnet_growth=8, cabs_per_orb=1)
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def compiles():
    """The programs that were compiled since the test began, as a list that grows."""
    events = []

    def listen(event, *_, **__):
        if event == COMPILED:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_stages_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = ModelConfig.derain()
    model = torch_reference.build(config).eval()
    images = np.random.default_rng(0).random((1, 64, 96, 3), np.float32)
    with torch.inference_mode():
        theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    _, params = names.from_official(weights)
    ours = jax.jit(pure_functions(config)[1])(params, images)
    for our_stage, their_stage in zip(ours, theirs):
        expected = their_stage.numpy().transpose(0, 2, 3, 1)
        assert np.abs(expected).max() > 0.5, "nothing much is compared"
        np.testing.assert_allclose(our_stage, expected, rtol=0, atol=1e-5)


def training_step():
    """One step of the small network, the state before it, and a batch, on the host."""
    init, apply = pure_functions(SMALL)
    optim = OptimConfig()
    optimizer = make_optimizer(optim, total_steps=10)
    step = functools.partial(
        train_step, apply=apply, optimizer=optimizer, loss=LossConfig(), optim=optim
    )
    degraded, target = np.random.default_rng(0).random((2, 4, 32, 32, 3), np.float32)
    state = jax.device_get(create_state(init(0), optimizer, optim))
    return step, state, {"degraded": degraded, "target": target}


def test_a_training_step_is_that_of_the_cpu():
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:
        pytest.skip("JAX_PLATFORMS leaves out the CPU, which is compared with")
    step, state, batch = training_step()
    after, metrics = jax.device_get(jax.jit(step)(state, batch))
    on_cpu = jax.device_put((state, batch), cpu)
    expected, expected_metrics = jax.device_get(jax.jit(step)(*on_cpu))
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    # Adam's first mean is a tenth of the gradient; parameters would show little more than its sign.
    gradient, expected_gradient = (
        optax.tree.get(state.opt_state, "mu") for state in (after, expected)
    )
    difference = optax.tree.norm(jax.tree.map(np.subtract, gradient, expected_gradient))
    assert difference < 1e-4 * optax.tree.norm(expected_gradient)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params, state.params)
    assert max(jax.tree.leaves(moved)) == pytest.approx(2e-4, rel=0.01)  # the learning rate


def test_further_steps_compile_nothing(compiles):
    step, state, batch = training_step()
    step = jax.jit(step)
    state, _ = step(state, batch)
    assert compiles
    del compiles[:]
    for _ in range(2):
        state, metrics = step(state, batch)
    assert np.isfinite(jax.device_get(metrics["loss"]))
    assert not compiles


def test_a_second_photo_of_a_size_compiles_nothing(compiles):
    restorer = Restorer(with_params(SMALL, pure_functions(SMALL)[0](0)))
    photo, other = np.random.default_rng(0).integers(0, 256, (2, 93, 125, 3), np.uint8)
    restorer(photo)
    assert compiles
    del compiles[:]
    assert restorer(other).shape == other.shape
    assert restorer(photo[:90, :122]).shape == (90, 122, 3)  # padded to the same size
    assert not compiles
