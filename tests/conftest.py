"""Fixtures and settings that all tests share."""

import asyncio
import gc
import os
import runpy
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from mprnet_jax.config import DataConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from mprnet_jax.devices import records

# Workers keep to a core each: thread pools of several on the same cores spend most of their time
# waking each other up. What a test starts inherits it.
worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if worker and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# Programs are compiled in a third of the time; tests run them a few times only. On one core, parts
# of a program that are compiled side by side only cost more.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"

# A suite that runs in the background ignores Ctrl-C, and so would the processes that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that live on; looking for dead ones takes a tenth of its time.
gc.set_threshold(50_000)

# Eight devices on the CPU, for meshes; what names no mesh runs on the first.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config):
    """Keeps tests to the CPU, unless all that are asked for lie in tests/accelerator."""
    accelerator = Path(__file__).parent / "accelerator"
    asked = [Path(argument.split("::")[0]).absolute() for argument in config.args]
    if all(path.is_relative_to(accelerator) for path in asked):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share the device
        return
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    jax.config.update("jax_platforms", "cpu")


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="kills, damages and interrupts runs hundreds of times where the suite takes samples",
    )


def pytest_collection_modifyitems(items):
    """The tests that take longest come first, so that workers end together."""
    slow = ("test_survival.py", "test_hosts.py")
    items.sort(key=lambda item: item.path.name not in slow)


@pytest.fixture(scope="session")
def exhaustive(request) -> bool:
    """Whether to try all cases of a kind, by hand, or a sample of them."""
    return request.config.getoption("--exhaustive")


@pytest.fixture(scope="session")
def faults(tmp_path_factory) -> Path:
    """The library that makes file operations fail (tests/faults/faults.c)."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).parent / "faults/faults.c"
    if sys.platform != "linux" or not shutil.which("cc"):
        reason = "needs Linux and a C compiler"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror")
    subprocess.run(["cc", *flags, "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def emulator():
    """The server of a bucket (tests/faults/emulator.py), which this and started processes use."""
    server = runpy.run_path(str(Path(__file__).parent / "faults/emulator.py"))["Emulator"]()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ |= server.environment
    yield server
    server.shutdown()
    server.server_close()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def bucket(emulator) -> Iterator[str]:
    """The address of a folder in that bucket."""
    emulator.clear()
    yield f"gs://bucket/{uuid.uuid4().hex}"
    emulator.clear()


@pytest.fixture
def _impatient(monkeypatch):
    """Attempts to reach a bucket follow each other at once, and there are fewer."""
    from mprnet_jax.compat import orbax

    async def sleep(seconds, wait=asyncio.sleep):
        await wait(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for name, value in {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"}.items():
        monkeypatch.setitem(orbax.RETRIES, name, value)


@pytest.fixture(scope="session", autouse=True)
def _compile_cache(tmp_path_factory):
    """What several tests compile is compiled once, and nothing is left in the user's cache."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compile_cache")))


@pytest.fixture(autouse=True)
def _measured_anew(monkeypatch):
    """What programs cost in one test does not change what another one plans."""
    monkeypatch.setattr(records, "FILE", f"{uuid.uuid4().hex}.json")


@pytest.fixture
def compiles():
    """Programs of restorers that were compiled since the test began: how long each took."""
    seen = []

    def listen(event: str, seconds: float, **details) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and details.get("fun_name") in (
            "restore",
            "jit(restore)",
        ):
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[[], ModelConfig]:
    """Makes the smallest network with all parts and different widths at all levels."""
    return lambda: ModelConfig(width=4, unet_growth=2, orsnet_growth=3, cabs_per_orb=1)


@pytest.fixture
def tiny_model(make_tiny_model) -> ModelConfig:
    """Such a network, which a test may change."""
    return make_tiny_model()


@pytest.fixture
def tiny_run(tiny_model) -> TrainConfig:
    """A run of a few seconds on the embedded sample."""
    return TrainConfig(
        name="tiny",
        model=tiny_model,
        data=DataConfig(source="sample_rain"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2, decay_steps=4),
        mesh=MeshConfig(data=1),
        total_steps=6,
        batch_size=2,
        patch_size=16,
        validation_crop=32,
        checkpoint_every=2,
        validate_every=3,
        log_every=1,
    )


@pytest.fixture
def photo() -> Callable[..., np.ndarray]:
    """Makes noise [H, W, C] of a size and dtype."""

    def make(height: int, width: int, dtype=np.uint8, channels: int = 3) -> np.ndarray:
        floats = np.random.default_rng(0).random((height, width, channels))
        if np.issubdtype(dtype, np.integer):
            return (floats * np.iinfo(dtype).max).astype(dtype)
        return floats.astype(dtype)

    return make
